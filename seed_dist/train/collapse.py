"""What is done when the codebook has collapsed, as `codebook_training.on_collapse` says; each time is a journal event.

A collapse is seen at the end of a window of steps in which hardly any code was used. Then, in this order: `stop` ends
the run, `roll_back` goes back to a checkpoint from before that window and leaves the batches since then out, `revive`
draws the unused codes anew, `raise_commitment` doubles the weight of that term. `warn` does nothing of this: the
warning comes in any case. Where the next window has collapsed too, it is done again.
"""

from __future__ import annotations

import logging

from seed_dist.dist.comm import on_main
from seed_dist.errors import TrainingError
from seed_dist.train.rollback import roll_back
from seed_dist.train.run import Run

_LOG = logging.getLogger("seed_dist")


def answer_collapse(run: Run) -> bool:
    """To be called after a step that was applied, before it is saved; whether training went back.

    TrainingError where the recipe wants to stop. All that decides and all that changes is in checkpoints, so a run that
    was interrupted does the same at the same steps.
    """
    remedies, step = run.training.on_collapse, run.state.step
    usage = run.stage.collapsed() if remedies != ("warn",) else None
    if usage is None:
        return False
    told = {"perplexity": usage.perplexity, "used_fraction": usage.used_fraction, "remedies": remedies}
    if "stop" in remedies:
        run.journal.write("collapse", step, collapse_step=step, **told)
        raise TrainingError(
            f"step {step}: the codebook has collapsed (perplexity {usage.perplexity:.1f}, {usage.used_fraction:.1%} of "
            "the codes in use), and on_collapse says stop. Nothing was saved for it. Start anew with other values of "
            "the section codebook or a lower learning rate, or go on with codebook_training.on_collapse=warn."
        )
    window = run.stage.recipe.codebook.usage_window_steps
    went_back = "roll_back" in remedies and roll_back(run, step - window, "collapse")
    figures: dict[str, float] = {}
    for remedy in remedies:
        figures |= run.stage.remedy(run.engine, remedy)
    run.journal.write("collapse", run.state.step, collapse_step=step, went_back=went_back, **told, **figures)
    text = f"step {step}: the codebook has collapsed; done about it: {', '.join(remedies)} {figures or ''}"
    on_main(run.engine.comm, lambda: _LOG.warning("%s", text))
    return went_back
