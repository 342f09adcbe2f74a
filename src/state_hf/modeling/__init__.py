"""Floor 2: transformers models, one family a file."""

# The Auto classes first. Their import brings that of every family, which must not come while a file of one of them
# is only half imported.
import transformers.models.auto.modeling_auto  # noqa: F401
