"""The first token of a sequence, for SAEs that were trained with BOS first.

Where a tokenizer has no BOS, TransformerLens, which SAELens trains through, puts EOS first. An SAE
that SAELens trained on a plain transformers model (``model_class_name`` is
``AutoModelForCausalLM``) had no token first.
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
    """The token that a sequence begins with.

    Attributes:
        id: the token's id; None where no token is put first.
        note: a note for the result; None for the tokenizer's own BOS.
    """

    id: int | None
    note: str | None = None


def first_token(host: "Host", metadata: "SubjectMetadata", chosen: str | None) -> FirstToken:
    """Return the token that an SAE's sequences begin with.

    Args:
        host: the model.
        metadata: the SAE's metadata.
        chosen: the option's value, a token or its id; None without the option.

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
    return FirstToken(own) if own is not None else _without_bos(host, metadata)


def _without_bos(host: "Host", metadata: "SubjectMetadata") -> FirstToken:
    """Return the first token in training where the tokenizer has no BOS."""
    none = f"trained with BOS first (prepend_bos), and the tokenizer of {host.name} has none"
    choose = f"{OPTION} TOKEN chooses another"
    if metadata.module_path:
        return FirstToken(
            None, f"{none}: sequences begin without, as SAELens' of plain models do; {choose}"
        )
    eos = getattr(host.tokenizer, "eos_token_id", None)
    if eos is None:
        return FirstToken(None, f"{none}, nor EOS: sequences begin without; {choose}")
    text = _text(host, eos)
    return FirstToken(
        eos, f"{none}: sequences begin with EOS ({text}), as TransformerLens' do; {choose}"
    )


def chosen_id(host: "Host", chosen: str) -> int:
    """Return the id of the option's token, given by its text or its id; digits are an id.

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
