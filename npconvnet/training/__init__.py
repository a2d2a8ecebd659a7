"""What a training run consists of besides the network: schedule, checkpoints, log, evaluation."""
