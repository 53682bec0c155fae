"""Learning to play a game by proximal policy optimization."""

from typing import TYPE_CHECKING, Any, ClassVar

from samkeras.data.atari import Game
from samkeras.data.splits import Splits
from samkeras.experiment.options.groups import Options, PPOOptions
from samkeras.seeds import derive_seed

if TYPE_CHECKING:
    from samkeras.experiment.tasks.ppo.evaluation import Evaluation
    from samkeras.experiment.tasks.ppo.rollouts import Rollouts
    from samkeras.model import SAMModel


class PPO:
    """The task of the games: rollouts of the policy, steps on their minibatches, and
    evaluations on whole games. See samkeras.task.Task."""

    options: ClassVar[tuple[type[Options], ...]] = (PPOOptions,)
    is_shared = False

    def devices(self) -> list[str]:
        """The first: the steps of a game are small."""
        import keras

        return keras.distribution.list_devices()[:1]

    def load(self, config: Any) -> Splits[Game]:
        return config.target.load().load(config)

    def check(self, config: Any, splits: Splits[Game]) -> None:
        """There is nothing that does not fit."""

    def list_scores(self, workload: Any) -> list[str]:
        return ["val_score", "val_score_std"]

    def check_devices(self, config: Any) -> None:
        """Any first device will do."""

    def batches(
        self, config: Any, data: Game, stream: str, model: "SAMModel"
    ) -> "Rollouts":
        from samkeras.experiment.tasks.ppo.rollouts import Rollouts

        seed = derive_seed(config.seed, stream)
        return Rollouts(data, model.make_call_function(), config, seed)

    def validation(self, config: Any, data: Game, model: "SAMModel") -> "Evaluation":
        from samkeras.experiment.tasks.ppo.evaluation import Evaluation

        return Evaluation(model.make_call_function(), data, config)

    def pruning_batch(self, config: Any, data: Game, model: "SAMModel") -> Any:
        return self.batches(config, data, "pruning", model)[0]

    def steps_per_epoch(self, config: Any, splits: Splits[Game]) -> int:
        return config.rollouts_per_epoch * config.batches_per_rollout
