//! A home folder of its own for each test, and the program in it.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A home folder and the program's surroundings; nothing of the real ones leaks in.
pub(crate) struct Home {
    pub(crate) dir: tempfile::TempDir,
    vars: Vec<(String, String)>,
}

/// What the program did.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Home {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), vars: Vec::new() }
    }

    pub(crate) fn var(mut self, name: &str, value: &str) -> Self {
        self.vars.push((name.into(), value.into()));
        self
    }

    pub(crate) fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    }

    /// All variables that the program sees.
    pub(crate) fn vars(&self) -> Vec<(String, String)> {
        let home = self.dir.path();
        let xdg = home.join("xdg").display().to_string();
        let mut vars: Vec<(String, String)> = [
            ("HOME", home.display().to_string().as_str()),
            ("PATH", "/usr/bin:/bin"),
            ("XDG_CONFIG_DIRS", &xdg),
            // Port 1 refuses connections, so that a mistake here can't reach out.
            ("HF_ENDPOINT", "http://127.0.0.1:1"),
            ("PIP_INDEX_URL", "http://127.0.0.1:1/simple"),
            ("PIP_CONFIG_FILE", "/dev/null"),
            ("LEVAIN_THREADS", "2"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        vars.extend(self.vars.iter().cloned());
        vars
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_levain"));
        command.args(args).env_clear().current_dir(self.dir.path()).envs(self.vars());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        self.run_with(args, "")
    }

    pub(crate) fn run_with(&self, args: &[&str], stdin: &str) -> Ran {
        let mut child = self.command(args).spawn().unwrap();
        let mut pipe = child.stdin.take().unwrap();
        let stdin = stdin.to_owned();
        // The program may end without reading: then writing fails, and that is fine.
        let writer = std::thread::spawn(move || drop(pipe.write_all(stdin.as_bytes())));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        ran(&output)
    }

    /// Takes the home's own path out of a text.
    pub(crate) fn without_paths(&self, text: &str) -> String {
        text.replace(&self.dir.path().display().to_string(), "HOME")
    }
}

pub(crate) fn ran(output: &Output) -> Ran {
    Ran {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout.clone()).unwrap(),
        err: String::from_utf8(output.stderr.clone()).unwrap(),
    }
}

impl Ran {
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, 0, "{self:#?}");
        self.out
    }

    #[track_caller]
    pub(crate) fn json(self) -> serde_json::Value {
        serde_json::from_str(&self.ok()).unwrap()
    }
}

/// Compares with `tests/golden/NAME`; `UPDATE_GOLDEN=1` rewrites it.
#[track_caller]
pub(crate) fn golden(name: &str, found: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, found).unwrap();
        return;
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        expected == found,
        "{} differs; UPDATE_GOLDEN=1 rewrites it. Expected:\n{expected}\nFound:\n{found}",
        path.display()
    );
}
