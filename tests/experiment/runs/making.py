"""What tests of runs have in common."""

MNIST = "workloads/mnist_mlp"
# Two whole batches each: one program to train with and one to validate with.
SMALL = ["--train_examples", "256", "--validation_examples", "256", "--epochs", "2"]
