"""The protobuf messages that ladle speaks, and tensors in and out of them.

The messages live in a descriptor pool of their own, so that importing TensorFlow or the
package tensorflow-serving-api beside them, in any order, clashes with nothing. Their modules:

- `tensorflow_pb`: packages `tensorflow` and `tensorflow.error`
- `serving_pb`: package `tensorflow.serving`
- `ladle_pb`: packages `ladle.v1` and `ladle.internal`
- `health_pb`: package `grpc.health.v1`
- `google_pb`: the well-known types that these use
"""
