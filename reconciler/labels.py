"""The labels by which the reconciler finds its own objects; apart, so that a listing need not load the model."""

LABEL_STACK = "holdfast.stack"
LABEL_RESOURCE = "holdfast.resource"
LABEL_INDEX = "holdfast.index"
LABEL_GENERATION = "holdfast.generation"
LABEL_FINGERPRINT = "holdfast.fingerprint"
