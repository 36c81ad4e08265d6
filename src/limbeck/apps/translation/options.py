"""Every option of a training of a translation model, as one value that a checkpoint can hold.

The command line, the configuration files and ``--help`` are made from these fields: their names, types, bounds, defaults and descriptions stand here
alone. Options that NeurST's trainer has too have its names. Nothing here imports torch, so that ``--help`` does not wait for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from annotated_types import Ge, Gt, Lt
from typing_extensions import Doc

from limbeck.apps.options import known
from limbeck.apps.translation.hparams import SIZES, Sizes
from limbeck.errors import LimbeckError, did_you_mean

if TYPE_CHECKING:
    from limbeck.pruning.translated import NeurST

SIZE_FIELDS = (
    "width", "heads", "encoder_layers", "decoder_layers", "ffn", "dropout", "attention_dropout", "ffn_dropout", "share_embeddings", "tie_softmax",
)  # fmt: skip
"""Options that, where they are given, replace what ``hparams_set`` says."""
PRUNING_FIELDS = (
    "pruning_schedule", "initial_sparsity", "target_sparsity", "begin_pruning_step", "end_pruning_step", "pruning_frequency", "polynomial_power",
    "pruning_variable_pattern", "nopruning_variable_pattern", "keep_prune_property", "prune_vectors",
)  # fmt: skip
"""Those of ``limbeck.NeurST``."""
FIXED = (
    "source", "target", "vocabulary", "vocabulary_kind", "separate_vocabulary", "max_length", "batch_tokens", "hparams_set", *SIZE_FIELDS,
    "update_cycle", "label_smoothing", "lr_schedule", "lr_factor", "learning_rate", "warmup_steps", "adam_beta1", "adam_beta2", "adam_epsilon",
    "weight_decay", "clip_norm", "seed", "pretrain_model", "initial_global_step", *PRUNING_FIELDS, "prune_embeddings",
)  # fmt: skip
"""What a resumed run cannot change: the shapes of its tensors, and what optimizer, learning rate, masks and the order of the sentences carry on."""


class Habit(NamedTuple):
    """How the models of a set of hyperparameters are trained, unless other options say so."""

    lr_factor: float
    warmup_steps: int
    batch_tokens: int = 4096


HABITS: dict[str, Habit] = {
    "transformer_toy": Habit(0.32, 100, 1024),
    "transformer_tiny": Habit(2.5, 2000),
    "transformer_small": Habit(2.0, 4000),
    "transformer_base": Habit(1.0, 4000),
    "transformer_big": Habit(1.0, 4000),
}
"""Tiny: a highest learning rate of 0.005 after 2,000 steps, as Wu et al. 2021 (arXiv 2105.14462); base and big: Vaswani et al. 2017, section 5.3."""
DEFAULT_SET = "transformer_toy"

Steps = Annotated[int, Ge(1)]
Count = Annotated[int | None, Ge(1)]
Chance = Annotated[float | None, Ge(0), Lt(1)]
Positive = Annotated[float, Gt(0)]
NonNegative = Annotated[float, Ge(0)]
Beta = Annotated[float, Ge(0), Lt(1)]


@dataclass(frozen=True)
class TrainOptions:
    """What ``limbeck translate train`` was asked for."""

    # the data
    data: Annotated[str, Doc("A folder of {train,val,test*}.{en,de}[.gz], or 'numbers', a task that is embedded.")] = "numbers"
    source: Annotated[str | None, Doc("Language to translate from: the suffix of its files.")] = None
    target: Annotated[str | None, Doc("Language to translate into.")] = None
    vocabulary: Annotated[int, Ge(8), Doc("Subwords of the vocabulary; fewer where the text has no more.")] = 8000
    vocabulary_kind: Annotated[Literal["unigram", "bpe"], Doc("How subwords are learnt.")] = "unigram"
    separate_vocabulary: Annotated[bool, Doc("A vocabulary for each language.")] = False
    max_length: Annotated[Steps, Doc("Longest side of a training pair, in subwords.")] = 250
    batch_tokens: Annotated[Count, Doc("Subwords of a batch, padding counted; default: those of the set.")] = None
    # the model
    hparams_set: Annotated[str | None, Doc(f"Sizes and learning rate where no option says otherwise; one of {', '.join(HABITS)}.")] = None
    width: Annotated[Count, Doc("Width of the model.")] = None
    heads: Annotated[Count, Doc("Heads of every attention.")] = None
    encoder_layers: Annotated[Count, Doc("Layers of the encoder.")] = None
    decoder_layers: Annotated[Count, Doc("Layers of the decoder.")] = None
    ffn: Annotated[Count, Doc("Hidden units of every feed-forward layer.")] = None
    dropout: Annotated[Chance, Doc("On embeddings and on what each layer adds.")] = None
    attention_dropout: Annotated[Chance, Doc("On attention weights.")] = None
    ffn_dropout: Annotated[Chance, Doc("On hidden units of feed-forward layers.")] = None
    share_embeddings: Annotated[bool | None, Doc("One embedding for both languages.")] = None
    tie_softmax: Annotated[bool | None, Doc("The softmax layer is the target's embedding.")] = None
    pretrain_model: Annotated[str | None, Doc("Begin with the weights and subwords of a run or checkpoint.")] = None
    # the training
    train_steps: Annotated[Steps, Doc("Updates of the optimizer.")] = 1000
    initial_global_step: Annotated[
        int, Ge(0), Doc("Steps trained before, for learning rate, checkpoints' names and when to validate; never for pruning.")
    ] = 0
    update_cycle: Annotated[Steps, Doc("Batches whose gradients make one update.")] = 1
    label_smoothing: Annotated[float, Ge(0), Lt(1), Doc("Of the cross entropy in training.")] = 0.1
    lr_schedule: Annotated[Literal["noam", "inverse_sqrt", "constant"], Doc("How the learning rate moves.")] = "noam"
    lr_factor: Annotated[float | None, Gt(0), Doc("Factor of Noam's; default: that of the set.")] = None
    learning_rate: Annotated[float | None, Gt(0), Doc("Highest of inverse_sqrt, or the constant one; default: Noam's highest.")] = None
    warmup_steps: Annotated[Count, Doc("Steps until the highest learning rate; default: that of the set.")] = None
    adam_beta1: Annotated[Beta, Doc("Adam's decay of the mean gradient.")] = 0.9
    adam_beta2: Annotated[Beta, Doc("Adam's decay of the mean square.")] = 0.98
    adam_epsilon: Annotated[Positive, Doc("Adam's epsilon.")] = 1e-9
    weight_decay: Annotated[NonNegative, Doc("Decoupled from the gradient, as in AdamW.")] = 0.0
    clip_norm: Annotated[NonNegative, Doc("Norm of the gradient to clip at; 0: never.")] = 0.0
    seed: Annotated[int, Doc("Random seed.")] = 1111
    # pruning
    compress: Annotated[str | None, Doc("Schedule file: what to prune and when; in place of the options that follow.")] = None
    pruning_schedule: Annotated[str, Doc("polynomial_decay or constant_sparsity.")] = "polynomial_decay"
    initial_sparsity: Annotated[float, Doc("Sparsity at the begin; 0 or more, below 1.")] = 0.0
    target_sparsity: Annotated[float, Doc("Sparsity at the end; 0: no pruning. Below 1.")] = 0.0
    begin_pruning_step: Annotated[int, Doc("First step of pruning, of this run; 0 or more.")] = 0
    end_pruning_step: Annotated[int, Doc("Last step of pruning, included; -1: for ever, which polynomial_decay refuses.")] = -1
    pruning_frequency: Annotated[int, Doc("Steps between renewals of the masks; 1 or more.")] = 100
    polynomial_power: Annotated[float, Doc("Power of the decay; above 0.")] = 3.0
    pruning_variable_pattern: Annotated[str | None, Doc("Prune what this regular expression finds in a name.")] = None
    nopruning_variable_pattern: Annotated[str | None, Doc("Prune all but what this finds; not used beside the other.")] = None
    keep_prune_property: Annotated[bool, Doc("Zeros of the first weights stay zero until the first renewal.")] = True
    prune_vectors: Annotated[bool, Doc("Biases and norms may be pruned too.")] = False
    prune_embeddings: Annotated[bool, Doc("Prune embeddings too, where no pattern is given.")] = False
    # validation
    eval_steps: Annotated[Steps, Doc("Steps between validations; there is one at the end, too.")] = 250
    eval_start_at: Annotated[int, Ge(0), Doc("No validation before this step.")] = 0
    eval_batch_size: Annotated[Steps, Doc("Sentences of a batch in translation.")] = 64
    eval_top_checkpoints_to_keep: Annotated[Steps, Doc("Best checkpoints to keep and to average.")] = 10
    eval_estop_patience: Annotated[int, Ge(0), Doc("Stop after so many validations without a better one; 0: never.")] = 0
    average_prune_again: Annotated[
        bool, Doc("Average best checkpoints of other masks too, if they keep as many weights, and prune the mean to as many.")
    ] = False
    beam_size: Annotated[Steps, Doc("Hypotheses of beam search; 1: greedy.")] = 4
    length_penalty: Annotated[NonNegative, Doc("Power of the length by which scores are divided.")] = 0.6
    # the run
    save: Annotated[str | None, Doc("Run folder. Default: runs/ and application, date and time.")] = None
    save_checkpoint_steps: Annotated[Steps, Doc("Steps between checkpoints.")] = 250
    checkpoints_max_to_keep: Annotated[Steps, Doc("How many of them stay.")] = 8
    summary_steps: Annotated[Steps, Doc("Steps between report lines.")] = 50
    log_gradients: Annotated[bool, Doc("Record gradients in TensorBoard.")] = False
    amp: Annotated[bool, Doc("bfloat16 autocast.")] = False
    compile: Annotated[bool, Doc("Compile the model with torch.compile.")] = False
    cuda: Annotated[bool, Doc("Use CUDA.")] = False
    device: Annotated[str | None, Doc("A torch device, 'cuda:1' for one; overrides --cuda.")] = None
    command: str = "limbeck translate train"

    @classmethod
    def of(cls, saved: Mapping[str, Any]) -> TrainOptions:
        """The options of a saved run; those of another version that this one does not know are left out."""
        return cls(**known(cls, saved))

    @property
    def set_name(self) -> str:
        """The set of hyperparameters; raises ``LimbeckError`` for a name that means none."""
        name = self.hparams_set or DEFAULT_SET
        if name not in HABITS:
            remedy = did_you_mean(name, HABITS) or f"; choose one of {', '.join(HABITS)}"
            raise LimbeckError(f"no hparams_set is named '{name}'{remedy}")
        return name

    @property
    def sizes(self) -> Sizes:
        """The model's sizes: those of the set, but for the ones that are given; raises ``LimbeckError`` for sizes that fit no model.

        >>> TrainOptions(hparams_set="transformer_base", width=256).sizes.ffn
        2048

        One embedding needs one vocabulary: with ``separate_vocabulary`` none is shared.
        """
        given = {name: value for name in SIZE_FIELDS if (value := getattr(self, name)) is not None}
        if self.separate_vocabulary and given.setdefault("share_embeddings", False):
            raise LimbeckError("--share_embeddings needs one vocabulary for both languages; leave --separate_vocabulary out")
        try:
            return replace(SIZES[self.set_name], **given)
        except ValueError as error:
            raise LimbeckError(f"--hparams_set {self.set_name}: {error}") from error

    @property
    def type(self) -> str:
        """The model in a word or two: its set, or its sizes where they are others."""
        sizes = self.sizes
        if all(
            getattr(sizes, name) == getattr(SIZES[self.set_name], name)
            for name in ("width", "heads", "encoder_layers", "decoder_layers", "ffn")
        ):
            return self.set_name
        return f"transformer {sizes.width}, {sizes.encoder_layers}+{sizes.decoder_layers}"

    @property
    def warmup(self) -> int:
        """Steps until the highest learning rate."""
        return HABITS[self.set_name].warmup_steps if self.warmup_steps is None else self.warmup_steps

    @property
    def tokens(self) -> int:
        """Subwords of a batch."""
        return HABITS[self.set_name].batch_tokens if self.batch_tokens is None else self.batch_tokens

    @property
    def factor(self) -> float:
        """Noam's factor."""
        return HABITS[self.set_name].lr_factor if self.lr_factor is None else self.lr_factor

    @property
    def highest_rate(self) -> float:
        """The highest learning rate: the one that is given, or Noam's, ``factor * (width * warmup) ** -0.5``.

        >>> round(TrainOptions(hparams_set="transformer_tiny").highest_rate, 4)
        0.0049
        """
        if self.learning_rate is not None and self.lr_schedule != "noam":
            return self.learning_rate
        return float(self.factor * (self.sizes.width * self.warmup) ** -0.5)

    @property
    def pruning(self) -> NeurST:
        """The options of pruning; raises ``ScheduleError`` for values that NeurST refuses."""
        from limbeck.pruning.translated import NeurST

        return NeurST(**{name: getattr(self, name) for name in PRUNING_FIELDS})

    def global_step(self, step: int) -> int:
        """What a step of this run is called, in the names of checkpoints and in when to validate."""
        return self.initial_global_step + step
