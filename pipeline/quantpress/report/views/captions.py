"""What each section's figures mean, said once for all views; and what it says where there is nothing to show."""

from __future__ import annotations

SCOREBOARD = (
    "Recovery: accuracy over the unquantized model's, with its 95% interval; 1 is no loss, an arrow says that "
    "the whole interval shows one. TPOT (time per output token) and tokens/s: how many times as fast as the "
    "unquantized model that was measured beside it, with the interval; below 1 is slower. A question mark: neither "
    "faster nor slower is shown, because the interval leaves room for both or the rounds cannot be trusted (section "
    "Speed in vLLM says which)."
)
DUMMY = (
    "Weights: dummy. Shapes and schemes are the model's and the recipe's, the numbers in them are random. Nothing can "
    "be said of accuracy, and these rows decide nothing."
)
ONLINE = (
    "Nothing was made here: vLLM quantized the model itself while it loaded it (its --quantization, by the name in the "
    "row). Scores are by that vLLM on both sides. It competes for nothing above; a recipe that does not beat it is not "
    "worth making."
)
ABOUT = {
    "accuracy": (
        "Accuracy of the unquantized model, of the checkpoint, and the difference on the same documents. "
        "p tests for a difference (McNemar's exact test; for the mean, signs flipped at random, weighted as the tasks "
        "are). Above 0.05 no difference is shown, which does not mean that there is none: beside it stands the "
        "smallest loss that so many documents would show four times in five. A metric that is a fraction of each "
        "document has no p. No signal: the unquantized model itself is not better than guessing there, so the task "
        "says nothing about the recipe, and it does not count towards the mean. That is decided for each quarter of "
        "the documents on the others, so that luck does not choose; near a guess, only some may count. With many rows "
        "a few small p come by chance alone: at 0.05, one in twenty. Recovery is the checkpoint's accuracy over the "
        "model's, with its 95% interval; above chance, both less what a guess has: 0 for a checkpoint that only "
        "guesses. Flips are answers that changed; KL is the mean divergence of the choice probabilities from the "
        "model's, in nats (for acc_norm of log-likelihoods per character, so it is far smaller there). The noise "
        "floor, where it was measured (--noise-floor), is how far the model is from itself when it is scored "
        "otherwise: less than that means nothing. The figures are those of this checkpoint; the recipe on another "
        "draw of its calibration data makes another one (evaluate --seeds).",
        "Not measured: quantpress evaluate RECIPE.",
    ),
    "served": (
        "The log-likelihoods of a fixed text, computed by transformers and by the vLLM that served, in nats a token. "
        "The engine does not compute what was scored if the whole 95% interval of the mean difference lies beyond the "
        "bound: 0.01 and what the unquantized model itself differs between the two; nor if the unquantized model "
        "differs by more than twice 0.01, or its tokens by 0.1 in the mean. An accuracy gate that was passed with "
        "scores by transformers then holds for transformers only.",
        "Not compared: quantpress bench RECIPE.",
    ),
    "speed": (
        "Model and checkpoint were loaded in turns; the notes say whether they were up at the same time, and with how "
        "much of the memory. Each figure is the median over rounds. "
        "Speed-up is the ratio of output tokens/s pair by pair, with its 95% interval: Student's t over the starts of "
        "the servers, because one server differs from start to start. Where they were started once it is over the "
        "pairs, with what starts differ by as it is assumed. It is called faster or slower only if the whole interval "
        "lies more than 3% away from 1. Fewer than three pairs, or starts, give no interval and no verdict. "
        "TTFT is the time to the first token, TPOT the time for each further one.",
        "Not measured: quantpress bench RECIPE.",
    ),
    "layers": (
        "Squared error that quantization adds to a decoder layer's output, over the square of what the layer itself "
        "adds; each layer gets the unquantized model's input, so one layer's error does not carry over to the next.",
        "Not measured: quantpress report --layer-errors runs model and checkpoints side by side, layer by layer.",
    ),
    "engines": (
        "The same checkpoint on another vLLM, held against what is on record (quantpress recertify). Answers: how many "
        "of the chat check are the same, letter for letter; near a tie, the last bits decide one. Likelihoods: those "
        "of the fixed text, after minus before, in nats a token; they moved if the whole interval lies beyond 0.01. "
        "Accuracy and flips: the checkpoint's answers to the same documents, now and on record. Speed: where the old "
        "engine was still there, both served the checkpoint in turns, and the ratio is that of their tokens/s; "
        "elsewhere it is how many times as fast as the unquantized model the checkpoint was beside it, then and now. "
        "The record on the old engine, and what signs it, stay as they are.",
        "Not recertified: quantpress recertify ARTIFACT --vllm OTHER.",
    ),
    "answers": (
        "Greedy answers of both, asked right after the servers started.",
        "Not asked: quantpress bench RECIPE.",
    ),
    "missing": (
        "What this report does not show, and the command that makes it.",
        "Nothing: every stage of every recipe is here.",
    ),
}
