"""Names of objects, labels and annotations that more than one module uses.

Those of our own objects are the ones in the manifests (`k8s/`). Knative's are in its documentation.
"""

from __future__ import annotations

# Namespaces

GENERATOR = "workload-generator"
"""Also the name of the generator's Deployment, ContainerSource, Job and container."""
SHARDS = "workload-generator-shards"
FUNCTIONS = "functions"
EVENTING = "eventing"
METRICS = "metrics"
KNATIVE_SERVING = "knative-serving"
KNATIVE_EVENTING = "knative-eventing"
KOURIER = "kourier-system"
OURS = (GENERATOR, SHARDS, FUNCTIONS, EVENTING, METRICS)
KNATIVE = (KNATIVE_SERVING, KOURIER, KNATIVE_EVENTING)

FUNCTIONS_DOMAIN = f"{FUNCTIONS}.svc.cluster.local"
"""The domain of the functions' cluster-local URLs."""

# Objects

LOGGER = "event-logger"
RECEIVER = "receiver"
CONFIG_AUTOSCALER = "config-autoscaler"
"""The ConfigMap of Knative's autoscaler, in KNATIVE_SERVING."""

# Labels

NAME_LABEL = "app.kubernetes.io/name"
"""Of a function's objects: its name in the catalog."""
VERSION_LABEL = "app.kubernetes.io/version"
PART_OF_LABEL = "app.kubernetes.io/part-of"
PRODUCT = "knative-bench"
"""The value of PART_OF_LABEL on every object of ours."""
PART_LABEL = "knative-bench/part"
"""The part of a deployment (`kn-bench deploy PART`) that an object belongs to."""
GENERATOR_LABELS = f"{NAME_LABEL}={GENERATOR}"
LOGGER_LABELS = f"app={LOGGER}"
SERVICE_LABEL = "serving.knative.dev/service"
REVISION_LABEL = "serving.knative.dev/revision"

# Annotations

CHANGED_ANNOTATION = "knative-bench/found"
"""What a scenario changed in an object, and by which process (`scenarios.changes`)."""
RUN_ANNOTATION = "knative-bench/run"
"""The id of the run that a Job is for."""
AUTOSCALING = "autoscaling.knative.dev/"
MAX_SCALE = f"{AUTOSCALING}max-scale"
MIN_SCALE = f"{AUTOSCALING}min-scale"
BROKER_CLASS = "eventing.knative.dev/broker.class"
RABBITMQ_BROKER = "RabbitMQBroker"
"""The value of BROKER_CLASS on a broker of eventing-rabbitmq."""
PARALLELISM = "rabbitmq.eventing.knative.dev/parallelism"
