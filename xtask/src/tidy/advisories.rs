//! What is locked against a folder of RustSec advisories, and how old the folder is.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustsec::advisory::Informational;
use rustsec::{Advisory, Lockfile};

use super::{Finding, locked};

/// Advisories that were looked at and do not concern this program: id, until when, why.
const EXCEPTIONS: &[(&str, &str, &str)] = &[];
/// Advisories come nearly every day; a database without one for so many days was not brought up to date.
const AGE_DAYS_MAX: i64 = 90;

/// The database that the environment names, or that lies where this project's machines keep it.
#[must_use]
pub fn find(root: &Path) -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("LEVAIN_ADVISORY_DB") {
        return Some(named.into());
    }
    let shared = std::env::var_os("LEVAIN_SHARED").map_or_else(|| root.join("../shared"), PathBuf::from);
    Some(shared.join("advisory-db")).filter(|folder| folder.is_dir())
}

/// Says what is wrong with a check of advisories by this database: there is none, or it is too old.
///
/// # Errors
/// That sentence. Whether it fails a run is the caller's to decide.
pub fn fresh(database: Option<&Path>) -> Result<(), String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    fresh_on(database, i64::try_from(now / 86_400).unwrap_or(i64::MAX))
}

fn fresh_on(database: Option<&Path>, today: i64) -> Result<(), String> {
    let get = "get one by `git clone --depth 1 https://github.com/rustsec/advisory-db` and name its folder in LEVAIN_ADVISORY_DB";
    let Some(database) = database else {
        return Err(format!(
            "Cargo.lock was NOT compared with known holes: there is no advisory database; {get}"
        ));
    };
    let shown = database.display();
    let Some(newest) = newest_day(database) else {
        return Err(format!(
            "Cargo.lock was NOT compared with known holes: {shown} holds no advisories; {get}"
        ));
    };
    let age = today - newest;
    if age > AGE_DAYS_MAX {
        return Err(format!(
            "Cargo.lock was compared with OLD advisories: the newest in {shown} is of {age} days ago and {AGE_DAYS_MAX} are the most; bring it up to date"
        ));
    }
    Ok(())
}

/// The day of the newest advisory, in days since 1970. A folder's own date would be that of its copy.
fn newest_day(database: &Path) -> Option<i64> {
    let folders = std::fs::read_dir(database.join("crates")).ok()?.flatten();
    let files = folders.flat_map(|folder| std::fs::read_dir(folder.path()).into_iter().flatten().flatten());
    files
        .filter_map(|file| {
            let text = std::fs::read_to_string(file.path()).ok()?;
            let date = text.lines().find_map(|line| line.trim().strip_prefix("date = "))?;
            day(date.trim().trim_matches('"'))
        })
        .max()
}

/// The number of a day `2026-08-20` in the Gregorian calendar, from 1970-01-01 on (Howard Hinnant, `days_from_civil`).
fn day(date: &str) -> Option<i64> {
    let mut parts = date.splitn(3, '-').map(str::parse::<i64>);
    let (year, month, day) = (parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?);
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Years begin in March, so that the odd day is the last one.
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year / 400, year % 400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    Some(era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468)
}

/// Every advisory in `database/crates/*/*.md` that a locked crate falls under.
///
/// Notices of crates that are merely unmaintained do not count.
#[must_use]
pub fn check(root: &Path, database: &Path) -> Vec<Finding> {
    if !database.join("crates").is_dir() {
        return vec![Finding::new(database, 0, "no folder `crates` with advisories here")];
    }
    let locks = locked::LOCKS.iter().map(|lock| root.join(lock)).filter(|lock| lock.is_file());
    locks.flat_map(|lock| check_lock(&lock, database)).collect()
}

fn check_lock(lock: &Path, database: &Path) -> Vec<Finding> {
    let lockfile = match Lockfile::load(lock) {
        Ok(lockfile) => lockfile,
        Err(error) => return vec![Finding::new(lock, 0, error.to_string())],
    };
    let mut findings = Vec::new();
    for package in lockfile.packages.iter().filter(|package| package.source.is_some()) {
        let Ok(files) = std::fs::read_dir(database.join("crates").join(package.name.as_str())) else {
            continue;
        };
        for file in files.flatten() {
            let advisory = match Advisory::load_file(file.path()) {
                Ok(advisory) => advisory,
                Err(error) => {
                    findings.push(Finding::new(file.path(), 0, error.to_string()));
                    continue;
                }
            };
            let notice = matches!(
                advisory.metadata.informational,
                Some(Informational::Unmaintained | Informational::Notice)
            );
            let excepted = EXCEPTIONS.iter().any(|(id, _, _)| *id == advisory.metadata.id.as_str());
            if !notice
                && !excepted
                && advisory.metadata.withdrawn.is_none()
                && advisory.versions.is_vulnerable(&package.version)
            {
                let message =
                    format!("{} {}: {} {}", package.name, package.version, advisory.id(), advisory.title());
                findings.push(Finding::new(lock, 0, message));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADVISORY: &str = "```toml\n[advisory]\nid = \"RUSTSEC-2099-0001\"\npackage = \"leaky\"\ndate = \"2099-01-01\"\n\n[versions]\npatched = [\">= 1.2.0\"]\n```\n\n# A hole\n\nIt leaks.\n";

    fn lock_with(version: &str) -> (tempfile::TempDir, Vec<Finding>) {
        let folder = tempfile::tempdir().unwrap();
        let crates = folder.path().join("db/crates/leaky");
        std::fs::create_dir_all(&crates).unwrap();
        std::fs::write(crates.join("RUSTSEC-2099-0001.md"), ADVISORY).unwrap();
        let lock = format!(
            "version = 4\n\n[[package]]\nname = \"leaky\"\nversion = \"{version}\"\nsource = \"registry+https://github.com/rust-lang/crates.io-index\"\n"
        );
        std::fs::write(folder.path().join("Cargo.lock"), lock).unwrap();
        let findings = check(folder.path(), &folder.path().join("db"));
        (folder, findings)
    }

    #[test]
    fn a_vulnerable_version_is_found_and_a_patched_one_is_not() {
        assert_eq!(lock_with("1.1.9").1.len(), 1);
        assert!(lock_with("1.2.0").1.is_empty());
    }

    #[test]
    fn days_are_counted() {
        for (date, number) in
            [("1970-01-01", 0), ("2000-02-29", 11_016), ("2000-03-01", 11_017), ("2026-08-20", 20_685)]
        {
            assert_eq!(day(date), Some(number), "{date}");
        }
        for bad in ["", "2026", "2026-13-01", "2026-00-01", "26-1-1", "2026-01-32", "x-y-z"] {
            assert_eq!(day(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_missing_and_an_old_database_are_told() {
        assert!(fresh_on(None, 0).unwrap_err().contains("NOT compared"));
        let (folder, _) = lock_with("1.2.0");
        let database = folder.path().join("db");
        let newest = day("2099-01-01").unwrap();
        assert_eq!(fresh_on(Some(&database), newest + AGE_DAYS_MAX), Ok(()));
        let told = fresh_on(Some(&database), newest + AGE_DAYS_MAX + 1).unwrap_err();
        assert!(told.contains("91 days ago"), "{told}");
        // A folder without advisories is no database.
        assert!(fresh_on(Some(folder.path()), 0).unwrap_err().contains("holds no advisories"));
    }
}
