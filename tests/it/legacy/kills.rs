//! Killed at random moments, the real program ends with what an undisturbed run makes.

use std::process::Stdio;
use std::time::{Duration, Instant};

use super::{LEGACY, content, old};
use crate::daemon::on;
use crate::support::daemon::Home;
use crate::support::target::until;

/// Kills of one upgrade: so many, or `LAMPLIGHTER_TEST_KILLS`.
const KILLS: u32 = 8;

/// Below `most`.
fn random(most: Duration) -> Duration {
    let share = f64::from(u32::try_from(uuid::Uuid::new_v4().as_u128() >> 96).unwrap()) / f64::from(u32::MAX);
    most.mul_f64(share)
}

#[tokio::test]
async fn killed_at_random_moments_it_goes_on() {
    let kills: u32 = std::env::var("LAMPLIGHTER_TEST_KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    // The same rows twice.
    let sql = LEGACY.replace("now()", "timestamp '2026-05-01 12:00'");
    let (twin, db) = (old(&sql).await, old(&sql).await);
    let arguments = ["migrate", "legacy", "--copy-reports", "--timezone", "Europe/Berlin", "--json"];
    let began = Instant::now();
    let undisturbed = Home::new(&on(&twin.url, "")).output(&arguments);
    let took = began.elapsed();
    assert!(undisturbed.status.success(), "{}", String::from_utf8_lossy(&undisturbed.stderr));

    let home = Home::new(&on(&db.url, ""));
    let mut hit = 0;
    for _ in 0..kills {
        let mut child = home.command(&arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        tokio::time::sleep(random(took.mul_f64(2.5) / kills + Duration::from_millis(60))).await;
        if child.try_wait().unwrap().is_none() {
            hit += 1;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let half: bool = db.get("SELECT to_regclass('lamplighter_upgrade.unfinished') IS NOT NULL").await;
        if half && hit == 3 {
            // The daemon does not take what is half done.
            let mut daemon = home.start();
            assert_eq!(daemon.ended().await.code(), Some(78), "{}", daemon.log());
            let told = until("the reason is printed", Duration::from_secs(10), async || {
                daemon.log().lines().find(|line| line.contains("not finished")).map(str::to_owned)
            });
            assert!(told.await.contains("lamplighter migrate legacy"));
        }
    }
    println!("{hit} of {kills} kills hit a run; one that nobody kills takes {took:?}");
    assert!(hit * 3 >= kills, "only {hit} of {kills} kills hit a run of {took:?}");
    let last = home.output(&arguments);
    assert!(last.status.success(), "{}", String::from_utf8_lossy(&last.stderr));
    assert_eq!(String::from_utf8_lossy(&last.stdout), String::from_utf8_lossy(&undisturbed.stdout));
    assert_eq!(content(&db).await, content(&twin).await);
    assert!(db.get::<i64>("SELECT count(*) FROM public.monitor_checks").await > 0);
}
