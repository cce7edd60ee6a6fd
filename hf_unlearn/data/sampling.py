"""How many images of a split are measured."""

# Of a split that is only measured: a share of so many random images has a standard error of half a point at most.
MAX_EVAL_SAMPLES = 10_000


def at_most(split, number: int):
    """
    A split, or a part of it if it has more images.

    Args:
        split (`datasets.Dataset`):
            Any images.
        number (`int`):
            How many to take at most, at random and the same each time; 0: all.
    """
    return split if number == 0 or len(split) <= number else split.shuffle(seed=0).select(range(number))
