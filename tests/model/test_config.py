import json

import pytest

from model.config import PRESETS, ModelConfig, ablation_configs, config_from_dict, preset
from model.errors import ModelError


@pytest.mark.parametrize("name", PRESETS)
def test_a_config_survives_being_stored(name: str) -> None:
    stored = json.loads(json.dumps(PRESETS[name].to_dict()))
    assert config_from_dict(stored) == PRESETS[name]


def test_unknown_and_missing_keys_are_all_named_at_once() -> None:
    stored = PRESETS["tiny"].to_dict() | {"depth": 3, "colour": "red"}
    del stored["heads"]
    with pytest.raises(ModelError, match=r"unknown colour, depth; missing heads"):
        config_from_dict(stored)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"neck": "sett"}, "neck='sett' is not one of identity, residual"),
        ({"heads": 5}, "channels=96 do not split over heads=5"),
        ({"input_size": 100}, "input_size=100 is not a multiple of 32"),
        ({"feature_size": 64}, "input_size=128 gives 32 cells, which do not pool to 64"),
        ({"neck": "residual"}, "needs residual_blocks"),
        ({"residual_blocks": 3}, "residual_blocks=3 needs neck=residual"),
        ({"neck": "set", "set_block": "identity"}, "neck=set with set_block=identity is neck=identity"),
        (
            {"neck": "fit", "set_block": "residual", "residual_blocks": 3},
            "set_block=residual needs a neck with SET",
        ),
        ({"neck": "set", "fit_residual": "q_soft"}, "fit_residual=q_soft needs a neck with FIT"),
        ({"fit_attention": "softmax", "fit_residual": "q_sig"}, "q_sig needs fit_attention=softmax_sigmoid"),
        ({"set_depth": True}, "set_depth=True"),
        ({"trunk_blocks": [2, 2, 2]}, "trunk_blocks"),
    ],
)
def test_an_impossible_network_is_refused_by_its_fields(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError) as refusal:
        config_from_dict(PRESETS["tiny"].to_dict() | changes)
    assert message in str(refusal.value)


def test_an_unknown_preset_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ModelError, match="paper, release, tiny"):
        preset("huge")


@pytest.mark.parametrize("name", PRESETS)
def test_each_table_of_the_paper_has_one_row_that_is_the_preset_itself(name: str) -> None:
    def plain(config: ModelConfig) -> dict[str, object]:
        return config.to_dict() | {"name": ""}

    rows = ablation_configs(name)
    assert len(rows) == 15
    for table in ("table1", "table2", "table3", "table4"):
        same = [
            row
            for row, config in rows.items()
            if row.startswith(table) and plain(config) == plain(PRESETS[name])
        ]
        assert len(same) == 1, (table, same)
    assert all(config.name == f"{name}/{row}" for row, config in rows.items())
