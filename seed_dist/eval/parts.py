"""The measurements, in order. Each takes the bench, adds numbers to the future report.json, and fills examples."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from seed_dist.eval import attributes, causality, codebook, gallery, generation, reconstruction, retrieval
from seed_dist.eval.bench import Bench
from seed_dist.eval.results import RetrievalExamples, ShownCode
from seed_dist.eval.units import PerUnit
from seed_dist.models.captions import clean_caption

_CAUSALITY_IMAGES = 4
_IMAGES_OF_A_CODE = 10
_QUERIES_SHOWN, _CAPTIONS_DEEP, _IMAGES_DEEP = 6, 3, 5


def retrieval_baselines(bench: Bench, numbers: dict[str, Any]) -> None:
    """Chance level, and how much captions repeat."""
    scores = {"n": len(bench.captions), "distinct_captions": len(set(bench.captions))}
    numbers["retrieval"] = {**scores, "chance": retrieval.score_chance(bench.captions)}


def retrieval_clip(bench: Bench, numbers: dict[str, Any]) -> None:
    """The frozen CLIP itself, as a peer that was never squeezed into a few queries."""
    image = bench.split.read("image_embedding")
    distinct = list(dict.fromkeys(bench.captions))
    row = {caption: i for i, caption in enumerate(distinct)}
    text = generation.embed_texts(bench.workspace.clip, distinct, bench.recipe.eval.batch_size)
    numbers["retrieval"]["clip"] = retrieval.score(image, text[[row[c] for c in bench.captions]], bench.captions)


def retrieval_embedding(bench: Bench, numbers: dict[str, Any]) -> RetrievalExamples:
    """The last causal embedding against captions, and the same with shuffled captions."""
    image = bench.image_feature(bench.causal)
    scores = numbers["retrieval"]
    scores["embedding"] = retrieval.score(image, bench.text_features, bench.captions)
    scores["shuffled"] = retrieval.score_shuffled(image, bench.text_features, bench.captions, bench.recipe.seed)
    return _retrieval_examples(bench, "embedding", image)


def retrieval_codes(bench: Bench, numbers: dict[str, Any]) -> RetrievalExamples:
    """The last embedding rebuilt from codes, through the same heads."""
    image = bench.image_feature(bench.rebuilt)
    scores = numbers["retrieval"]
    scores["codes"] = retrieval.score(image, bench.text_features, bench.captions)
    continuous = (scores.get("embedding") or {}).get("i2t", {}).get("r1")
    kept = PerUnit(scores["codes"]["i2t"]["r1"].parts, continuous.parts) if continuous else None
    scores["codes_of_embedding"] = kept
    return _retrieval_examples(bench, "codes", image)


def _retrieval_examples(bench: Bench, source: str, image: Tensor) -> RetrievalExamples:
    text, captions = bench.text_features, bench.captions
    by_image = retrieval.queries(image, text, captions, _QUERIES_SHOWN, _CAPTIONS_DEEP)
    by_text = retrieval.queries(text, image, captions, _QUERIES_SHOWN, _IMAGES_DEEP)
    rows = {row for query in (*by_image, *by_text) for row in (query.row, *query.found)}
    pictured = {query.row for query in by_image} | {row for query in by_text for row in query.found}
    pictures = {row: bench.split.images.image(row) for row in pictured}
    return RetrievalExamples(source, by_image, by_text, pictures, {row: captions[row] for row in rows})


def rebuilding(bench: Bench, numbers: dict[str, Any]) -> None:
    """Causal and generation embeddings from codes, beside the mean of the training split."""
    workspace, target = bench.workspace, bench.recipe.codebook.generation_target
    scores = reconstruction.score_reconstruction(bench.rebuilt, bench.causal, workspace.mean_of("causal"))
    wanted = bench.split.read(target).float()
    scores |= reconstruction.score_generation(bench.generated, wanted, workspace.mean_of(target))
    numbers["reconstruction"] = scores


def code_usage(bench: Bench, numbers: dict[str, Any]) -> None:
    quantizer = bench.workspace.tokenizer.quantizer.quantizer
    numbers["codebook"] = codebook.score(bench.codes, quantizer.config.size) | codebook.spacing(
        quantizer.code_vectors()
    )
    for example, codes in zip(bench.examples, bench.codes.tolist(), strict=False):
        example.codes = codes


def images_of_codes(bench: Bench, numbers: dict[str, Any]) -> None:
    """Images that use some of the codes."""
    model = bench.workspace.tokenizer.quantizer
    codes, images = bench.codes, bench.split.images
    blocks = []
    with torch.no_grad():
        for block in bench.causal.split(bench.recipe.eval.batch_size):
            vectors = model.quantizer.compared(model.encode_vectors(block.to(bench.workspace.device)))
            blocks.append(gallery.margins(vectors.flatten(0, 1), model.quantizer.code_vectors()).cpu())
    margin = torch.cat(blocks).view(codes.shape)
    uses = gallery.gallery(codes, margin, model.config.size, bench.asked_codes, _IMAGES_OF_A_CODE)
    numbers["codebook"]["gallery"] = gallery.as_numbers(uses)
    bench.shown_codes += [
        ShownCode(use, [images.image(row) for row, _ in use.rows], [bench.captions[row] for row, _ in use.rows])
        for use in uses
    ]


def left_to_right(bench: Bench, numbers: dict[str, Any]) -> None:
    patches = bench.first("patches", _CAUSALITY_IMAGES).to(bench.workspace.device)
    numbers["causality"] = causality.check(bench.workspace.qformer, patches, bench.recipe.seed)


def repainting(bench: Bench, numbers: dict[str, Any]) -> None:
    """Pictures from the codes of the images that are shown."""
    config = bench.recipe.eval
    embeddings = bench.generated[: len(bench.examples)]
    pictures = bench.workspace.painter.paint(embeddings, bench.recipe.seed, config.paint_steps, config.guidance)
    for example, picture in zip(bench.examples, pictures, strict=True):
        example.repainted = picture


def captions(bench: Bench, numbers: dict[str, Any]) -> None:
    """Captions that the language model writes from codes."""
    language, config = bench.workspace.language, bench.recipe.eval
    truths = bench.captions[: config.caption_samples]
    blocks = bench.codes[: len(truths)].split(config.batch_size)
    written = [clean_caption(text) for block in blocks for text in language.generate_captions(block)]
    numbers["caption"] = {
        **attributes.score_captions(written, truths),
        "n": len(truths),
        "chance": attributes.chance_captions(truths),
        "shuffled": attributes.score_captions(written[1:] + written[:1], truths),
    }
    for example, text in zip(bench.examples, written, strict=False):
        example.written = text


def pictures_from_captions(bench: Bench, numbers: dict[str, Any]) -> None:
    """Codes that the language model writes from captions: valid or not, and what the painter makes of them."""
    workspace, config = bench.workspace, bench.recipe.eval
    texts = bench.captions[: config.caption_samples]
    imagined = generation.imagine(workspace.language, texts, bench.recipe.qformer.queries, config.batch_size)
    scores: dict[str, Any] = {"valid": imagined.valid, "n": imagined.asked, "painted": 0}
    numbers["generation"] = scores
    for i, row in enumerate(imagined.rows):
        if row < len(bench.examples):
            bench.examples[row].imagined_codes = imagined.codes[i].tolist()
    painter = workspace.painter
    few = imagined.among(config.paint_samples)
    judge = generation.Judge(workspace.clip, texts[: few.asked])
    originals = bench.first("image_embedding", few.asked)
    scores |= {"chance": judge.chance(), "originals": judge.score_all(originals)}
    embeddings = bench.embeddings(few.codes)
    if bench.recipe.codebook.generation_target == "image_embedding":  # text features are nothing the judge can read
        scores["from_image_codes"] = judge.score_all(bench.generated[: few.asked])
        scores["before_painting"] = judge.score(few, embeddings)
    pictures = painter.paint(embeddings, bench.recipe.seed, config.paint_steps, config.guidance)
    painted = generation.embed_pictures(workspace.clip, pictures, config.batch_size)
    scores |= judge.score(few, painted) | generation.similarity(painted, originals[few.rows])
    scores["painted"] = len(pictures)
    for row, picture, readings in zip(few.rows, pictures, judge.readings(few, painted), strict=True):
        if row < len(bench.examples):
            bench.examples[row].imagined, bench.examples[row].readings = picture, readings
