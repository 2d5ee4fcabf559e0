"""Words of captions as COCO's evaluation has them, which are those of the Penn Treebank, without Java.

Published BLEU, ROUGE-L and CIDEr count the tokens of Stanford's PTBTokenizer 3.4.1 with `-lowerCase`, less 17 marks of
punctuation (coco-caption's `ptbtokenizer.py`). It is a lexer: of all rules that match at a place the one that sees
furthest wins, what it looks ahead at included, and of those the first. So is this one. Its rules were written after the
grammar that Stanford publishes (PTBLexer.flex) and what that version's program makes of examples;
`tests/unit/metrics/test_caption_tokens.py` compares the two where Java and pycocoevalcap are installed.

Known differences: emoji inside a URL; and a caption that ends with a single letter and a point ("vitamin C."). The
program looks at the next caption whether the point belongs to the letter. Here it never does, as before a caption that
begins with "A" or "The". So the tokens of a caption depend on nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Callable

# Removed after tokenisation, by coco-caption. (Upper case as there: "-lrb-" in lower case stays, and counts as a word.)
_PUNCTUATION = frozenset(
    ["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"]
)

_LETTER = (
    r"(?:[^\W\d_\u00b2\u00b3\u00b9\u00bc-\u00be\u2070-\u209c\u2150-\u2189\u2460-\u24ff\u2776-\u2793\u3007\u3021-\u3029"
    r"\u3192-\u3195\u3220-\u3229\u3248-\u324f\u3251-\u325f\u3280-\u3289\u32b1-\u32bf]|[\u00ad\u0300-\u036f]"
    r"|&[aeiouAEIOU](?i:acute|grave|uml);)"
)
_SPACE = r"[ \t\u00a0\u2000-\u200a\u3000]"
_WORD = rf"{_LETTER}(?:{_LETTER}|\d)*(?:[.!?]{_LETTER}(?:{_LETTER}|\d)*)*"
_APOSTROPHE = r"(?:['\u0092\u2019]|(?i:&apos;))"
_ANY_APOSTROPHE = rf"(?:{_APOSTROPHE}|[`\u0091\u2018\u201b])"
_ALNUM = rf"(?:{_LETTER}|\d)"
_NUMBER = r"(?:\d*(?:[.:,\u00ad\u066b\u066c]\d+)+|\d+)"
_FRENCH = rf"(?:[dDoOlL]{_ANY_APOSTROPHE}{_ALNUM})?"
_ACRONYM = r"(?:[A-Za-z](?:\.[A-Za-z])+|(?i:(?:canada|sino|korean|eu|japan|non)-u\.s|u\.s\.-(?:u\.k|u\.s\.s\.r)))"

# Followed by lower case as a rule. Those with a capital in brackets are abbreviations in that case only.
_ABBREVIATION_1 = (
    r"(?:(?i:jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec|mon|tues?|wed|thu|thurs|fri|ala|ariz|calif|colo|conn|ct|dak|"
    r"fla|ga|ind|kans?|ky|md|mich|minn|mo|mont|neb|nev|okla|penn|tenn|va|vt|wisc?|wyo|inc|cos?|corp|(?-i:[Pp](?i:p?t)[ye](?i:s?))|ltd|plc|"
    r"bancorp|bhd|assn|univ|intl|sys|tel|est|ext|sq|jr|sr|bros|(?:ed|ph)\.d|blvd|rd|rt|bldg|esq|etc|al|seq)"
    r"|A(?i:z)|A(?i:rk)|D(?i:el)|I(?i:ll)|L(?i:a)|M(?i:ass)|M(?i:iss)|O(?i:re)|P(?i:a)|T(?i:ex)|W(?i:ash))\."
)
# Followed by a name as a rule.
_ABBREVIATION_2 = (
    r"(?:(?i:mr|mrs|ms|drs?|profs?|sens?|reps?|attys?|lt|col|gen|messrs|govs?|adm|rev|maj|sgt|cpl|pvt|capt|ste?|ave|"
    r"pres|lieut|hon|brig|co?mdr|pfc|spc|supts?|det|mt|ft|adj|adv|asst|assoc|ens|insp|mlle|mme|msgr|sfc|vs|alex|wm|jos|cie|a\.k\.a|cf|treas|ph|invt|elec|natl|"
    rf"(?-i:[Mm][ft](?i:g))|dept)|M(?i:iss)|{_ACRONYM}|[A-Za-z])\."
)
_ABBREVIATION_3 = r"(?i:ca|figs?|prop|nos?|art|bldg|pp|op)\."  # only before a number

Rule = tuple["re.Pattern[str]", "Callable[[str], str] | None", int]


def _rule(pattern: str, ahead: str = "", normal: Callable[[str], str] | None = None, back: int = 0) -> Rule:
    """`back`: how many of the characters found are read again."""
    return re.compile(f"({pattern}){ahead}"), normal, back


_SINGLE, _DOUBLE = re.compile(r"['\u0092\u2019]|(?i:&apos;)"), re.compile(r'"|(?i:&quot;)')


def _right_quotes(text: str) -> str:
    text = _DOUBLE.sub("''", _SINGLE.sub("'", text))
    text = re.sub("[\u0091\u2018\u201a\u201b\u2039]", "`", text)
    text = re.sub("[\u0084\u0093\u201c\u201e\u00ab]", "``", text)
    return re.sub("[\u0094\u201d\u00bb]", "''", text).replace("\u203a", "'")


def _no_soft_hyphens(text: str) -> str:
    return text if text == "\u00ad" else text.replace("\u00ad", "")


def _ampersand(text: str) -> str:
    return re.sub("(?i:&amp;)", "&", text)


def _joined(text: str) -> str:
    return text.replace(" ", "\u00a0").replace("(", "-lrb-").replace(")", "-rrb-")


def _always(token: str) -> Callable[[str], str]:
    return lambda _: token


_FRACTIONS = {"\u00bc": "1/4", "\u00bd": "1/2", "\u00be": "3/4", "\u2153": "1/3", "\u2154": "2/3"}
_CURRENCY = {"\u00a2": "cents", "\u00a3": "#", **dict.fromkeys("\u0080\u00a4\u20a0\u20ac\u20ac", "$")}
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_NAME = r"[A-Za-z][A-Za-z0-9_:.\-]*"
_MARKUP = (
    rf"<(?:[!?][A-Za-z\-][^>\r\n]*|{_NAME}"
    rf"(?: +{_NAME}(?: *= *(?:'[^'\r\n]*'|\"[^\"\r\n]*\"|{_NAME}))?)* */?|/{_NAME}) *>"
)
_EXTENSION = (
    "(?i:bat|bmp|c|class|cgi|cpp|dll|doc|docx|exe|gif|gz|h|htm|html|jar|java|jpeg|jpg|mov|mp3|pdf|php|pl|png|ppt|ps|py|"
    "sql|tar|txt|wav|x|xml|zip|wm[va])"
)
_STARTERS = (
    "About|According|Additionally|After|An|A|As|At|But|Did|During|Earlier|He|Her|Here|How|However|If|In|It|Last|Many|"
    r"More|Mr\.|Ms\.|Now|Once|One|Other|Our|She|Since|So|Some|Such|That|The|Their|Then|There|These|They|This|We|When|"
    "While|What|Who|Why|Yet|You"
)
_PART = "[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}"

_RULES: tuple[Rule, ...] = (
    _rule(r"(?i:c)\+\+|(?i:[cf])#"),
    _rule("(?i:cannot|'twas)", back=3),
    _rule(rf"{_APOSTROPHE}(?i:tis)|(?i:gonna|gotta|lemme|gimme|wanna)", back=2),
    _rule(_MARKUP, normal=lambda text: text.replace(" ", "\u00a0")),
    _rule(r"(?i:&(?:md|mdash|ndash);)|[\u0096\u0097\u2013\u2014\u2015]", normal=_always("--")),
    _rule("(?i:&amp;)", normal=_ampersand),
    _rule(r"(?i:&(?:ht|tl|ur|lr|qc|ql|qr|odq|cdq|#[0-9]+);)"),
    _rule(_WORD, rf"{_APOSTROPHE}(?:[msdMSD]|(?i:re|ve|ll))", _no_soft_hyphens),
    _rule(r"[A-Za-z\u00ad]*[A-MO-Za-mo-z]\u00ad*", rf"(?i:n){_ANY_APOSTROPHE}(?i:t)", _no_soft_hyphens),
    _rule(_WORD, normal=_no_soft_hyphens),
    _rule(
        rf"{_APOSTROPHE}(?i:n){_APOSTROPHE}?|[lLdDjJ]{_APOSTROPHE}|(?i:dunkin|somethin|ol){_APOSTROPHE}"
        rf"|{_APOSTROPHE}(?:(?i:em|till?|cause)|[2-9]0(?i:s))|[A-HJ-XZn]{_ANY_APOSTROPHE}{_LETTER}{{2,}}"
        rf"|{_LETTER}{{2,}}(?<=[aeiouyAEIOUY]){_ANY_APOSTROPHE}[aeiouA-Z]{_LETTER}*"
        r"|(?i:cont'd\.?|nor'easter|c'mon|e'er|s'mores|ev'ry|li'l|nat'l)"
    ),
    _rule(rf"(?i:y){_APOSTROPHE}", _LETTER),
    _rule(r"(?i:https?://)[^ \t\n\f\r\"<>|()]+[^ \t\n\f\r\"<>|.!?(){},-]"),
    _rule(
        r"(?:(?:(?i:www)\.(?:[^ \t\n\f\r\"<>|.!?(){},]+\.)+[a-zA-Z]{2,4}"
        r"|(?:[^ \t\n\f\r\"`'<>|.!?(){},-_$]+\.)+(?i:com|net|org|edu)))"
        r"(?:/[^ \t\n\f\r\"<>|()]+[^ \t\n\f\r\"<>|.!?(){},-])?"
    ),
    _rule(
        r"(?:<|(?i:&lt;))?[a-zA-Z0-9][^ \t\n\f\r\"<>|(){}\u00a0]*@"
        r"(?:[^ \t\n\f\r\"<>|(){}.\u00a0]+\.)*[^ \t\n\f\r\"<>|(){}.\u00a0]+"
        r"(?:>|(?i:&gt;))?"
    ),
    _rule(rf"@[a-zA-Z_][a-zA-Z_0-9]*|#{_LETTER}+"),
    _rule(rf"{_APOSTROPHE}(?:[msdMSD]|(?i:re|ve|ll))", "[^A-Za-z]", _right_quotes),
    _rule(
        rf"(?i:n){_ANY_APOSTROPHE}(?i:t)",
        "[^A-Za-z]",
        _right_quotes,
    ),
    _rule(r"\d{1,2}[-/]\d{1,2}[-/]\d{2,4}"),
    _rule(rf"[-+]?{_NUMBER}", normal=_no_soft_hyphens),
    _rule(r"[\u207a\u207b\u208a\u208b]?(?:[\u2070\u00b9\u00b2\u00b3\u2074-\u2079]+|[\u2080-\u2089]+)"),
    _rule(r"(?:\d{1,4}[- \u00a0])?\d{1,4}(?:\\?/|\u2044)\d{1,4}", normal=lambda text: text.replace(" ", "\u00a0")),
    _rule(r"[\u00bc-\u00be\u2153-\u215e]", normal=lambda text: _FRACTIONS.get(text, text)),
    _rule(
        rf"(?i:-(?:rrb|lrb|rcb|lcb|rsb|lsb)-|c\.d\.s|pro-|anti-|s(?:&|&amp;)p-500|s(?:&|&amp;)ls)"
        rf"|(?i:cap){_APOSTROPHE}(?i:n)|(?i:c){_APOSTROPHE}(?i:est)",
        normal=_ampersand,
    ),
    _rule(rf"{_PART}(?:\\?/{_PART}){{1,2}}"),
    _rule(r"[A-Z]*\$|#"),
    _rule(
        r"[\u00a2-\u00a5\u0080\u20a0\u20a4\u20ac\u060b\u0e3f\uffe0\uffe1\uffe5\uffe6]",
        normal=lambda text: _CURRENCY.get(text, text),
    ),
    # "vitamin C. The": a letter is no abbreviation before a sentence, and after a caption comes a caption.
    _rule(r"[A-Za-z]\.", rf"(?:{_SPACE}+(?:{_STARTERS}|{_MARKUP})(?:{_SPACE}|[?!])|\n)", back=1),
    _rule(_ABBREVIATION_3, rf"{_SPACE}?\d"),
    _rule(_ABBREVIATION_1, "[^\n][^\n]"),
    _rule(_ABBREVIATION_1),
    _rule(_ABBREVIATION_2),
    _rule(_ACRONYM, rf"(?:{_SPACE}|\n)"),
    _rule(rf"{_APOSTROPHE}[0-9][0-9]", rf"(?:{_SPACE}|\n)"),
    _rule(rf"[A-Za-z0-9]+(?:\.[A-Za-z0-9]+)*\.{_EXTENSION}", rf"(?:{_SPACE}|[\n.?!,\"'<])"),
    _rule(rf"{_WORD}\.", "[,;:\u3001]", _no_soft_hyphens),
    _rule(
        r"(?:\([0-9]{2,3}\)[ \u00a0]?|(?:\+\+?)?(?:[0-9]{2,4}[- \u00a0])?[0-9]{2,4}[- \u00a0])[0-9]{3,4}[- \u00a0]?"
        r"[0-9]{3,5}|(?:(?:\+\+?)?[0-9]{2,4}\.)?[0-9]{2,4}\.[0-9]{3,4}\.[0-9]{3,5}",
        normal=_joined,
    ),
    _rule('"|(?i:&quot;)', normal=_always("''")),
    _rule("<|(?i:&lt;)", normal=_always("<")),
    _rule(">|(?i:&gt;)", normal=_always(">")),
    _rule(r"[<>]?[:;=][-o*']?[()DPdpO\\{@|\[\]]", "[^A-Za-z0-9]", normal=_joined),
    _rule(r"[\^x=~<>]\.\[\^x=~<>]|[-^x=~<>']_[-^x=~<>']|\([-^x=~<>'][_.]?[-^x=~<>']\)", normal=_joined),
    _rule(r"[()\[\]{}]", normal=lambda text: _BRACKETS[text]),
    _rule("-+", normal=lambda text: "--" if 3 <= len(text) <= 4 else text),
    _rule(r"\.{3,5}|(?:\.[ \u00a0]){2,4}\.|[\u0085\u2026]", normal=_always("...")),
    _rule(r"@+|#+|_+|\*+|(?:\\\*){1,3}"),
    _rule(r"[,;:\u3001]"),
    _rule("[?!]+"),
    _rule("[.\u00a1\u00bf\u037e\u0589\u061f\u06d4\u0700-\u0702\u07fa\u3002]"),
    _rule("[=/]"),
    _rule(rf"[A-Za-z0-9][A-Za-z0-9.,\u00ad]*(?:-(?:[A-Za-z0-9\u00ad]+|{_ACRONYM}\.))+", normal=_no_soft_hyphens),
    _rule(rf"{_FRENCH}{_ALNUM}+(?:[-_\u058a\u2010\u2011]{_FRENCH}{_ALNUM}+)*"),
    _rule("[A-Z]+(?:(?:[+&]|(?i:&amp;))[A-Z]+)+", normal=_ampersand),
    _rule("'", "[A-Za-z][^ \t\n\r\u00a0]"),
    _rule(rf"{_APOSTROPHE}(?:[msdMSD]|(?i:re|ve|ll))", normal=_right_quotes),
    _rule(
        rf"''|[`\u2018-\u201f\u0082\u0084\u0091-\u0094\u2039\u203a\u00ab\u00bb]{{1,2}}|{_APOSTROPHE}",
        normal=_right_quotes,
    ),
    _rule("<<|>>"),
    _rule(
        r"[+%&~^|\\\u00a6-\u00a9\u00ac\u00ae-\u00b4\u00b5-\u00ba\u00d7\u00f7\u0387\u2016\u2017\u2020-\u2023\u2030-\u2038"
        r"\u203b\u203e-\u2042\u2044\u207a-\u207f\u208a-\u208e\u2100-\u214f\u2190-\u2bff\u3012\u30fb\uff01-\uff0f"
        r"\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65]"
    ),
)


# What nearly all of a caption is: plain words before a blank, a comma or the end, where no other rule sees further.
_PLAIN = re.compile(r" *([A-Za-z]+)(?:(?=,? |\n)|\.(?=\n))")
_SPECIAL = re.compile(rf" *(?:(?i:cannot|gonna|gotta|lemme|gimme|wanna)\.?|{_ABBREVIATION_1}|{_ABBREVIATION_2})")


def caption_tokens(caption: str) -> str:
    """The tokens of a caption in lower case, with a blank between them; empty where nothing is left.

    A token may hold a no-break blank (U+00A0: "1 1/2"), at which coco-caption's BLEU and CIDEr cut it once more.
    """
    # Java sees two halves of a character beyond U+FFFF, and no rule knows either.
    text = re.sub("[^\x00-\uffff]", "\x00", caption.replace("\n", " ")) + "\n"
    tokens, place = [], 0
    while place < len(text) - 1:
        plain = _PLAIN.match(text, place)
        if plain and not _SPECIAL.fullmatch(plain[0]):
            token, place = plain[1], plain.end()
        else:
            token, place = _next_token(text, place)
        tokens.append(token.lower())
    return " ".join(token for token in tokens if token and token not in _PUNCTUATION)


def _next_token(text: str, place: int) -> tuple[str, int]:
    """The token that begins at `place`, empty where no rule knows the character, and where the next one begins."""
    furthest, found = place, None
    for pattern, normal, back in _RULES:
        match = pattern.match(text, place)
        if match and match.end() > furthest:
            furthest, found = match.end(), (match.end(1) - back, normal)
    if found is None:
        return "", place + 1
    end, normal = found
    return (normal(text[place:end]) if normal else text[place:end]), end
