"""The Spikingformer logs: their totals are rebuilt from their rows, and bad input is refused."""

import pytest

from snntorch_smixer.cost.published import (
    LOGS,
    PAPER_ABLATION,
    PAPER_ENERGY,
    log_energy_mj,
    published_log,
    read_data,
    static_saving_mj,
)
from snntorch_smixer.errors import SettingError


@pytest.mark.parametrize(
    ("name", "energy", "mac_g", "ac_g"),
    [
        ("spikingformer_8_768", 13.658864951845398, 0.520993768, 12.513659576717108),
        ("spikingformer_8_512", 7.463502601886196, 0.347329512, 6.51754094076244),
    ],
)
def test_the_logs_totals_are_rebuilt(name: str, energy: float, mac_g: float, ac_g: float):
    log = published_log(name)
    assert log_energy_mj(log, mac_pj=4.6, ac_pj=0.9) == pytest.approx(energy, rel=1e-8)
    assert log.energy_mj == energy
    assert log.mac / 1e9 == pytest.approx(mac_g, rel=1e-12)
    assert log.ac / 1e9 == pytest.approx(ac_g, rel=1e-8)


@pytest.mark.parametrize(
    ("name", "saved", "share"), [("spikingformer_8_768", 1.795, 0.131), ("spikingformer_8_512", 1.197, 0.160)]
)
def test_the_first_convolution_once_instead_of_four_times(name: str, saved: float, share: float):
    log = published_log(name)
    once = static_saving_mj(log, mac_pj=4.6)
    assert once == pytest.approx(saved, abs=5e-4)
    assert once / log.energy_mj == pytest.approx(share, abs=5e-4)


@pytest.mark.parametrize("name", LOGS)
def test_every_row_is_read(name: str):
    log = published_log(name)
    assert len(log.rows) == 5 + 8 * 6 + 1
    assert (len(log.stem), len(log.blocks)) == (5, 8)
    assert log.stem[0].mac == log.stem[0].dense
    assert [row.layer for row in log.rows if row.mac] == [log.stem[0].layer, "head"]
    for row in log.rows[1:-1]:
        assert row.ac / row.dense == pytest.approx(row.rate, rel=2e-5)
    assert log.licence == "Apache-2.0"
    assert "Spikingformer" in log.source


def test_the_rates_of_a_block_are_those_of_its_rows():
    first, last = published_log("spikingformer_8_768").blocks[0], published_log("spikingformer_8_768").blocks[7]
    assert (first.qkv, first.proj) == (pytest.approx(0.147487163), pytest.approx(0.265166095))
    assert (first.fc1, first.fc2) == (pytest.approx(0.227515193), pytest.approx(0.0234958546))
    assert (first.q, first.k, first.v) == (0.13504587255466577, 0.029809614839687148, 0.059374576983854926)
    assert last.fc2 == pytest.approx(0.00558467084)
    assert last.v == 0.07040979446432474


def test_sources_and_licence_ship_with_the_data():
    readme = read_data("README.md")
    assert "zhouchenlin2096/Spikingformer" in readme
    assert "Apache-2.0" in readme


def test_the_papers_figures():
    assert (PAPER_ENERGY.base_mj, PAPER_ENERGY.pruned_mj) == (4.45, 2.36)
    assert [row.flops_g for row in PAPER_ABLATION] == [3.45, 2.72, 2.54, 2.04]


def test_unknown_log_and_bad_prices():
    with pytest.raises(SettingError, match=r"published_log: name='spikformer' is unknown. Expected one of"):
        published_log("spikformer")
    log = published_log(LOGS[0])
    with pytest.raises(SettingError, match=r"log_energy_mj: ac_pj=-1 must be a finite number of at least 0"):
        log_energy_mj(log, mac_pj=4.6, ac_pj=-1)
    with pytest.raises(SettingError, match=r"static_saving_mj: mac_pj=nan must be a finite number"):
        static_saving_mj(log, mac_pj=float("nan"))
