"""Tests of what is said about a log: `python3 benches/daemon/test_access_log.py`."""

import os
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(__file__))

import access_log


def regular(monitors, interval, seconds, step=0.0):
    """Times of monitors whose phases are spread evenly."""
    phase = interval / monitors
    rounds = range(int(seconds / interval))
    return {m: [1000 + m * phase + r * (interval + step) for r in rounds] for m in range(monitors)}


class Judge(unittest.TestCase):
    def test_an_even_log_is_punctual(self):
        found = access_log.judge(regular(100, 10, 60), 100, 10, 1010, 1050)
        self.assertEqual((found["due"], found["done"], found["done_share"]), (400, 400, 1.0))
        self.assertEqual((found["missed_by_intervals"], found["silent_monitors"]), (0, 0))
        self.assertAlmostEqual(found["jitter_ms"]["max"], 0, places=6)
        self.assertAlmostEqual(found["largest_100ms"], 1)
        self.assertAlmostEqual(found["largest_second"], 1)

    def test_jitter_is_the_deviation_of_intervals(self):
        found = access_log.judge(regular(10, 10, 60, step=0.25), 10, 10, 1010, 1050)
        self.assertAlmostEqual(found["jitter_ms"]["p50"], 250, places=3)

    def test_a_missed_check_is_not_jitter(self):
        times = regular(10, 10, 60)
        del times[3][2]
        found = access_log.judge(times, 10, 10, 1010, 1050)
        self.assertEqual((found["done"], found["missed_by_intervals"]), (39, 1))
        self.assertAlmostEqual(found["jitter_ms"]["max"], 0, places=6)

    def test_a_silent_monitor_and_a_burst_are_seen(self):
        times = {m: [1000.0, 1010.0, 1020.0] for m in range(99)}
        found = access_log.judge(times, 100, 10, 1005, 1025)
        self.assertEqual(found["silent_monitors"], 1)
        self.assertAlmostEqual(found["largest_100ms"], 99)
        self.assertAlmostEqual(found["largest_second"], 9.9)
        self.assertIsNone(access_log.first_round(times, 100, 999))
        self.assertAlmostEqual(access_log.first_round(times, 99, 999), 1)

    def test_a_burst_over_the_edge_of_two_tenths_is_seen_anywhere(self):
        times = {m: [1000.0901 + m * 0.001] for m in range(20)}
        found = access_log.judge(times, 20, 10, 1000, 1010)
        self.assertAlmostEqual(found["largest_100ms_anywhere"], 100)
        self.assertAlmostEqual(found["largest_100ms"], 50)


class Rows(unittest.TestCase):
    def setUp(self):
        self.times = regular(10, 10, 60)
        self.rows = {m: [at - 0.004 for at in of_one] for m, of_one in self.times.items()}

    def compare(self):
        found = access_log.compare_rows(self.times, self.rows, 1010, 1050)
        return found["pairs"], found["requests_without_row"], found["rows_without_request"]

    def test_every_request_has_its_row_also_at_the_edges(self):
        # Monitor 0 is asked right at both edges.
        self.assertEqual(self.compare(), (40, 0, 0))

    def test_a_lost_row_and_a_doubled_one_are_found(self):
        del self.rows[4][2]
        self.assertEqual(self.compare(), (39, 1, 0))
        self.rows[5].insert(2, self.rows[5][2] + 0.001)
        self.assertEqual(self.compare(), (39, 1, 1))

    def test_a_row_without_a_request_is_found(self):
        self.rows[11] = [1020.0]
        self.assertEqual(self.compare(), (40, 0, 1))


class Parse(unittest.TestCase):
    def test_only_answers_with_200_count(self):
        with tempfile.NamedTemporaryFile("w", suffix=".log") as file:
            file.write("1000.500 /m/1 200\n1000.250 /m/1 200\n1001.000 /m/2 499\n1001.000 /other 200\nbroken\n")
            file.flush()
            times, other = access_log.parse(file.name)
        self.assertEqual((dict(times), other), ({1: [1000.25, 1000.5]}, 3))


if __name__ == "__main__":
    unittest.main()
