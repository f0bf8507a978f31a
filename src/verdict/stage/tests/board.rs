//! Copies of the board that take more than one lock.

use super::*;
use crate::verdict::board::Row;

#[test]
fn everything_is_copied_once_and_in_order() {
    let board = Board::default();
    let numbers = || 1..=2_500_u128;
    for number in numbers().rev() {
        let source = if number % 2 == 0 { Source::File } else { Source::Database };
        board.put(&entry(Monitor { source, ..monitor(number) }), &MonitorState::default());
    }
    let expected: Vec<MonitorId> =
        numbers().filter(|n| n % 2 == 0).chain(numbers().filter(|n| n % 2 == 1)).map(id).collect();
    let ids = |rows: Vec<Row>| rows.iter().map(|row| row.entry.monitor.id).collect::<Vec<_>>();
    assert_eq!(ids(board.rows()), expected);
    for most in [0, 1, 1_023, 1_024, 1_025, 2_048, 2_499, 2_500, 9_999] {
        let (rows, total) = board.first(most);
        assert_eq!((ids(rows), total), (expected[..most.min(2_500)].to_vec(), 2_500), "{most}");
    }
    assert_eq!((Board::default().rows().len(), Board::default().first(5).1), (0, 0));
}
