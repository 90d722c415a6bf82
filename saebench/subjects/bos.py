"""Which token a sequence begins with, for SAEs that were trained with one first.

TransformerLens, through which SAELens trains, takes EOS for BOS where a tokenizer has no BOS; an
SAE that SAELens trained on a plain transformers model (``model_class_name`` is
``AutoModelForCausalLM``) had nothing first there.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from saebench.errors import OptionError, nearest

if TYPE_CHECKING:
    from saebench.formats.metadata import SubjectMetadata
    from saebench.subjects.host import Host

OPTION = "--sae-bos-token"


@dataclass(frozen=True)
class FirstToken:
    """What a sequence begins with.

    Attributes:
        id: the token's; None where nothing is put first.
        note: what is odd about it; None where the tokenizer's own BOS is put first.
    """

    id: int | None
    note: str | None = None


def first_token(host: "Host", metadata: "SubjectMetadata", chosen: str | None) -> FirstToken:
    """Return what an SAE's sequences begin with.

    Args:
        host: the model.
        metadata: the SAE's.
        chosen: a token or its id, from the option; None where it was not given.

    Raises:
        OptionError: for a token that the model does not have.
    """
    if not metadata.prepend_bos:
        unused = f"trained without BOS, so that {OPTION} puts nothing first" if chosen else None
        return FirstToken(None, unused)
    if chosen is not None:
        id = chosen_id(host, chosen)
        return FirstToken(id, f"sequences begin with token {id} ({_text(host, id)}): {OPTION}")
    own = getattr(host.tokenizer, "bos_token_id", None)
    return FirstToken(own) if own is not None else _instead(host, metadata)


def _instead(host: "Host", metadata: "SubjectMetadata") -> FirstToken:
    """Return what was first in training where the tokenizer has no BOS."""
    none = f"trained with BOS first (prepend_bos), and the tokenizer of {host.name} has none"
    choose = f"{OPTION} TOKEN chooses another"
    if metadata.module_path:
        return FirstToken(
            None, f"{none}: sequences begin without, as SAELens' of plain models do; {choose}"
        )
    eos = getattr(host.tokenizer, "eos_token_id", None)
    if eos is None:
        return FirstToken(None, f"{none}, nor EOS: sequences begin without; {choose}")
    shown = _text(host, eos)
    return FirstToken(
        eos, f"{none}: sequences begin with EOS ({shown}), as TransformerLens puts there; {choose}"
    )


def chosen_id(host: "Host", chosen: str) -> int:
    """Return the id of the token that the option names, by its text or its id.

    Digits are an id.

    Raises:
        OptionError: for a token that the tokenizer, or an id that the model, does not have.
    """
    number = chosen.isascii() and chosen.isdigit()
    id = int(chosen) if number else host.tokenizer.get_vocab().get(chosen)
    if id is None:
        special = [str(token) for token in host.tokenizer.all_special_tokens]
        raise OptionError(f"{OPTION} {chosen!r}: no token of {host.name}{nearest(chosen, special)}")
    if id >= host.embeddings:
        raise OptionError(
            f"{OPTION} {chosen!r}: expected an id below {host.embeddings}, the number of "
            f"embeddings of {host.name}, found {id}"
        )
    return id


def _text(host: "Host", id: int) -> Any:
    return host.tokenizer.convert_ids_to_tokens(id)
