"""What the clients in Python share."""


def completed(execution):
    """The condition of an execution that says whether it has ended."""
    return next(c for c in execution.conditions if c.type_ == "Completed")


def refused(kind, call):
    """The error of this kind that the call raises."""
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"not refused as {kind}")
