//! Who logs in where `database.url` names nobody.

use nix::unistd::{User, geteuid};
use sqlx::postgres::PgConnectOptions;

/// What the driver says where neither the URL nor `PGUSER` names a user.
const NOBODY: &str = "anonymous";

/// libpq's default, by which peer login works: the user that this process runs as. The driver, as it is built here, does
/// not ask the system for it.
pub(super) fn by_default(options: PgConnectOptions, url: &str) -> PgConnectOptions {
    if options.get_username() != NOBODY || names_user(url) {
        return options;
    }
    match User::from_uid(geteuid()) {
        Ok(Some(user)) => options.username(&user.name),
        _ => options,
    }
}

/// Before the host, or as a parameter.
fn names_user(url: &str) -> bool {
    url::Url::parse(url)
        .is_ok_and(|url| !url.username().is_empty() || url.query_pairs().any(|(name, _)| name == "user"))
}

#[cfg(test)]
mod tests {
    use std::str::FromStr as _;

    use super::*;

    fn user(url: &str) -> String {
        by_default(PgConnectOptions::from_str(url).unwrap(), url).get_username().to_owned()
    }

    #[test]
    fn who_is_not_named_is_the_user_of_the_process() {
        let output = std::process::Command::new("id").arg("-un").env_remove("PGUSER").output().unwrap();
        let own = String::from_utf8(output.stdout).unwrap().trim().to_owned();
        assert_ne!(own, NOBODY);
        assert_eq!(user("postgres:///lamplighter?host=/run/postgresql"), own);
        assert_eq!(user("postgres://db.example.com/lamplighter"), own);
        for named in ["postgres://bob@h/x", "postgres:///x?host=/run/postgresql&user=bob", "postgres://bob:secret@h/x"]
        {
            assert_eq!(user(named), "bob", "{named}");
        }
        // Somebody who is really called so.
        assert_eq!(user("postgres://anonymous@h/x"), "anonymous");
    }
}
