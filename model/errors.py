"""The errors that model code raises for a file that a person gave it."""


class ModelError(ValueError):
    """A weights or hand-model file is not what it must be; the message is one line that says how to mend it."""


class OtherModelError(ModelError):
    """A weights file is of another model than the one that is asked for; who asked knows how to mend that."""
