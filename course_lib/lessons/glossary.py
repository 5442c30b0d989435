"""The words of the course, each with one meaning; the lessons and the README repeat these, and a
test compares.
"""

import difflib

__all__ = ["GLOSSARY", "glossary"]

GLOSSARY = {  # by the lesson that introduces a word
    "00": {
        "Token": "one item of the list that attention reads",
        "Attention": "weights over a list of tokens, which sum to 1 for each query",
        "Cue": "the direction in which the still looks",
        "Moment": "four frames of a clip, with one dart of the eyes",
        "Region": "the pixels that decide an attribute",
        "Floor": "what a constant scores",
        "Ceiling": (
            "what the best possible answer scores, the mean label given all that happens on screen"
        ),
        "Chance": "what a random map scores",
        "CCC": "concordance, 1 for predictions on the diagonal and 0 for a constant",
    },
    "01": {
        "Residual connection": "a way around layers, whose output is added to what came in",
        "Bottleneck": "a block that narrows the channels, convolves, and widens them again",
        "Dilation": "gaps between the places that a kernel reads",
        "Trunk": "a network without its last linear layer",
        "Feature map": "activations that have places",
        "Frozen": "neither weights nor statistics change",
        "Forward hook": "a function that a layer calls with its output",
        "Effective receptive field": "the pixels that really move an activation",
        "Linear head": "the linear layer that turns a feature into answers",
        "Logit": "a score before softmax or sigmoid",
        "Class map": "what each place adds to one output",
        "Energy": "the share of a map that lies inside the region",
        "Mean map": "one map for all images, a baseline",
        "Consistency": "how alike two images of one person are",
    },
    "02": {
        "Optical flow": "for each pixel, its step to the next frame",
        "Forward flow": "flow defined on the pixels of the first frame",
        "Brightness constancy": "the assumption that a point keeps its brightness while it moves",
        "Aperture problem": "one edge tells only the motion across it",
        "Image pyramid": "one picture in several sizes, each half as large as the last",
        "End-point error": "the distance between the tips of the estimated and the true vector",
        "Occluded": "hidden or out of view in the next frame",
        "Linear probe": "a linear model that shows what can be read from frozen features",
        "Window": "the frames that make one item of a longer clip",
    },
    "03": {
        "Inception block": "four branches of convolutions side by side, concatenated",
        "Inflation": "making a 2-D kernel 3-D by repeating it in time",
        "Boring video": "one frame, repeated",
        "Motion token": "the network's feature vector of one stretch of time",
        "Dead dimension": "one that never changes",
        "Redundant dimension": "one that copies another",
    },
    "04": {
        "Cross-attention": (
            "attention in which the queries come from one list of tokens, keys and values from"
            " another"
        ),
        "Query": "a row of Q in softmax(QKᵀ/√d)V, the vector for which an output is computed",
        "Key": "a row of K, the vector that a query is compared with",
        "Value": "a row of V, the vector that goes into the output with its key's weight",
        "Score": "the scalar product of a query and a key, divided by √d",
        "Softmax": "exponentials divided by their sum, so that they are positive and sum to 1",
        "Projection": "a learned matrix that makes queries, keys or values from tokens",
        "Head": "one of several attentions side by side",
        "Mask": "which keys a query may attend to",
        "Position": "a vector, added to a token, that says where in the list the token stands",
        "Layer norm": (
            "each token brought to mean 0 and variance 1, then scaled and shifted by learned"
            " numbers"
        ),
        "Importance": "the learned weight of a token's output in the pooled vector",
    },
    "05": {
        "Sink": "a key that everybody looks at",
        "Effective support": "at how many keys a query effectively looks",
        "Agreement": "the share of attention that two maps put at the same place",
        "Untrained": "the same model before it has learned, a baseline",
        "Fused kernel": (
            "one operation for scores, softmax and weighted mean, which never holds the weights"
        ),
    },
    "06": {
        "Fusion": "making one vector of two streams",
        "Batch norm": "normalising each dimension by the mean and variance of a batch",
        "Running statistics": "batch norm's slow averages of the batches that it was trained on",
        "Dropout": "setting random numbers to 0 while training",
        "Dead weight": "parameters that no gradient ever reaches",
        "FLOPs": "floating-point operations, 2 for each product in a matrix product",
        "Latency": "the time of one forward pass",
        "Attention × gradient": (
            "how much an attention weight contributed to one output, to first order"
        ),
    },
    "07": {
        "Epoch": "once through the training items",
        "Validation": "items to choose on",
        "Test": "items to report on, once",
        "Leak": "knowledge of the test set that reaches training",
        "Overfitting": "learning the training items by heart, at the cost of all others",
        "Callback": (
            "a function that is called when something happens: an epoch ends, a slider moves"
        ),
        "Schedule": "how the learning rate changes during a run",
        "Gradient clipping": "shortening a gradient that is longer than a given length",
        "Early stopping": (
            "ending a run when validation has not improved for some epochs, and going back to the"
            " best one"
        ),
        "Checkpoint": "the state of a run at one point of its training",
        "Bootstrap": "drawing the test again, with replacement, to see how much a score moves",
        "Ablation": "the same training with one thing changed",
    },
    "08": {
        "Prior": "how common something is before one looks",
        "Positive rate": "the share of *yes*",
        "Precision": "of those found, how many are right",
        "Recall": "of those who have it, how many are found",
        "F1": "the harmonic mean of precision and recall",
        "AP": "average precision, the quality of a ranking",
        "p_t": "the probability given to the true answer",
        "Margin": "by how much the right answer must win",
    },
    "09": {
        "Learnable query": "a query that is a parameter, the same for every image",
        "Pooling": "making one number of many",
        "Pointing game": "does the brightest place hit the region?",
    },
    "10": {
        "Widget": "a control that lives in the page and in the kernel at once",
        "Trait of a widget": "a value of it that can be read, set, watched and linked",
        "Blind spot": "a kind of mistake that you find by rule",
        "Drift": "the share of attention that moves from one layer, or epoch, to another",
        "Rollout": "attention multiplied up through the layers",
        "Head importance": "how much the output depends on a head",
    },
    "11": {
        "Plausible": "of a map: it marks what a person would look at",
        "Faithful": "of a map: it marks what the model's answer comes from",
        "Intervention": "changing one thing, keeping all else, and looking at the answer",
        "Shortcut": "an answer from something that goes with what was asked for",
        "Luckiest place": "the fixed token that hits most, chosen with the answers in hand",
        "Deletion": "hiding, step by step, what a map marks",
        "Insertion": "showing, step by step, what a map marks",
        "Habit": "what maps of different images share",
        "Superiority": "the share of pairs in which the one of the first group is larger",
    },
    "12": {
        "Miss": "an attribute that is there and is not found",
        "False alarm": "an attribute that is found and is not there",
        "Calibration": "making probabilities mean what they say",
        "Proper": "of a loss: the cheapest answer is the true share",
        "Gap": "the best group minus the worst",
        "Pair": "the same person twice, with one thing changed",
    },
    "13": {
        "Part token": "one patch of what a model draws of one part",
        "Flow matching": "training a model to say where a line from noise to an answer ends",
        "Conditional path": "the straight line from one noise point to one answer",
        "Euler step": "following the velocity for a short while, before the model is asked again",
        "Lead": "the overlap with the person drawn, minus the overlap with the other",
        "IoU": "how well the part of a map above a cut covers the region, overlap over union",
        "Stability": "how little a map moves from one step to the next",
        "Separation": "how little the maps of different parts overlap",
    },
    "14": {
        "Baseline": "the run that your change is held to",
        "Paired": "compared seed by seed",
        "Interval": "where the mean gain lies, at 95 %, if the seeds are all that varies",
        "Effective number": "what n similar images are worth",
        "Curriculum": "an order in which examples are shown",
        "Regularisation": "a charge on what the model does inside",
    },
}


def glossary(*words: str) -> None:
    """Print the meaning of some words, or of all, each with the lesson that introduces it.

    Capitals do not matter. Raises ValueError for a word that the course does not explain.
    """
    known = {
        word.lower(): (lesson, word, meaning)
        for lesson, meanings in GLOSSARY.items()
        for word, meaning in meanings.items()
    }
    for word in map(str.lower, words or known):
        if word not in known:
            nearest = difflib.get_close_matches(word, known, n=1)
            raise ValueError(
                f"the glossary has no {word!r}; "
                + (
                    f"did you mean {nearest[0]!r}?"
                    if nearest
                    else "glossary() prints all of its words"
                )
            )
        lesson, written, meaning = known[word]
        print(f"{written} (lesson {lesson}): {meaning}")
