"""Whether a value of AUTOCACHE can be done, as far as that is known without a model."""

from __future__ import annotations

from autocache import strategy
from autocache.activation_grammar import FOR_ALL, off, parse


def check(text: str) -> None:
    """Nothing, where the value is valid. Parameters cost the import of torch; names do not.

    Raises:
        UnknownStrategyError: no strategy has that name.
        ParameterError: a parameter is unknown or out of range, or the value does not parse.
        ProfileError: the profile's file cannot be read or is malformed.
    """
    if off(text):
        return
    request = parse(text)
    own = {key: value for key, value in request.parameters.items() if key not in FOR_ALL}
    named = request.strategy if isinstance(request.strategy, list) else []
    if isinstance(request.strategy, str):
        named = [(request.strategy, own)]
    for name, _ in named:
        strategy.known(name)
    if any(parameters for _, parameters in named):
        from autocache.choice import choose

        choose(request.strategy, {}, own)
