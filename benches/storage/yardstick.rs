//! What the rows that were recorded cost when nothing but PostgreSQL writes them: the least that any program can do, on this
//! machine and in this run.

use super::Result;
use super::house::House;
use super::recording::Spent;

/// A minute of the hour a transaction, in the order of the key, as the recorder's batches are.
const MINUTES: i32 = 60;

/// Copies all rows into a table with the same columns, key and foreign key, without partitions: what it cost, and the bytes of
/// that table.
pub(crate) async fn measure(house: &House) -> Result<(Spent, f64)> {
    let file: String = sqlx::query_scalar("SELECT current_setting('data_directory') || '/yardstick.copy'")
        .fetch_one(&house.pool)
        .await?;
    sqlx::raw_sql(
        "CREATE TABLE yardstick (LIKE monitor_checks INCLUDING DEFAULTS, PRIMARY KEY (monitor_id, checked_at, id), \
            FOREIGN KEY (monitor_id) REFERENCES monitors (id) ON DELETE CASCADE); CHECKPOINT",
    )
    .execute(&house.pool)
    .await?;
    let mut spent = Spent::default();
    for minute in 0..MINUTES {
        let export = format!(
            "COPY (SELECT * FROM monitor_checks WHERE extract(minute FROM checked_at) = {minute} ORDER BY monitor_id) \
                TO '{file}' (FORMAT binary)"
        );
        sqlx::query(sqlx::AssertSqlSafe(export)).execute(&house.pool).await?;
        let before = Spent::so_far(house).await?;
        let copy = format!("COPY yardstick FROM '{file}' (FORMAT binary)");
        sqlx::query(sqlx::AssertSqlSafe(copy)).execute(&house.pool).await?;
        spent.add(&Spent::so_far(house).await?, &before);
    }
    let before = Spent::so_far(house).await?;
    sqlx::query("CHECKPOINT").execute(&house.pool).await?;
    spent.add(&Spent::so_far(house).await?, &before);
    let bytes = house.bytes("yardstick").await?;
    sqlx::query("DROP TABLE yardstick").execute(&house.pool).await?;
    Ok((spent, bytes))
}
