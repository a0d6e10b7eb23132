//! Revisions, files by their names, pasted addresses, and what is done where no server can be asked.

use std::path::Path;

use crate::support::{COMMIT, Reply, Server, hub, listing, noise, tree};
use levain_hub::{Hub, HubError, ModelRef, Progress, PullEvent, Silent};

const TAGGED: &str = "fedcba9876543210fedcba9876543210fedcba98";

fn parse(text: &str) -> ModelRef {
    ModelRef::parse(text).unwrap()
}

/// A repository whose tag `v1`, branch `next/one` and commit `TAGGED` hold other files than its main branch.
async fn repository() -> Server {
    let main: Vec<(&'static str, Vec<u8>)> = vec![
        ("m-Q8_0.gguf", noise(3000)),
        ("m-Q4_K_M.gguf", noise(2000)),
        ("BF16/m-BF16-00001-of-00002.gguf", noise(100)),
        ("BF16/m-BF16-00002-of-00002.gguf", noise(200)),
        ("old/m-Q4_0.gguf", noise(300)),
        ("new/m-Q4_0.gguf", noise(301)),
        ("mmproj-F16.gguf", noise(10)),
    ];
    let tagged: Vec<(&'static str, Vec<u8>)> = vec![("m-Q8_0.gguf", noise(2500))];
    Server::start(move |request| {
        let page = |files: &[(&'static str, Vec<u8>)], commit: &str| {
            let all: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
            Reply::json(listing(&all).replace(COMMIT, commit))
        };
        let path = request.path.split('?').next().unwrap_or_default();
        match path.strip_prefix("/api/models/org/repo/") {
            Some("revision/main") => return page(&main, COMMIT),
            Some("revision/v1" | "revision/next%2Fone") => return page(&tagged, TAGGED),
            Some(commit) if commit == format!("revision/{TAGGED}") => return page(&tagged, TAGGED),
            Some("refs") => {
                let refs = r#"{"branches":[{"name":"main"},{"name":"next/one"}],"tags":[{"name":"v1"}],"converts":[]}"#;
                return Reply::json(refs);
            }
            _ => {}
        }
        let file = |files: &[(&'static str, Vec<u8>)], commit: &str| {
            let name = request.path.strip_prefix(&format!("/org/repo/resolve/{commit}/"))?.to_owned();
            files.iter().find(|(file, _)| *file == name).map(|(_, bytes)| Reply::file(request, bytes, "\"e\""))
        };
        file(&main, COMMIT).or_else(|| file(&tagged, TAGGED)).unwrap_or_else(|| Reply::status(404))
    })
    .await
}

fn names(hub: &Hub) -> Vec<String> {
    hub.list().into_iter().map(|model| model.reference).collect()
}

#[tokio::test]
async fn revisions_live_side_by_side() {
    let server = repository().await;
    let dir = tempfile::tempdir().unwrap();
    let hub = hub(dir.path(), &server.url(""), &[]);
    let tagged = hub.pull(&parse("hf:org/repo@v1"), &Silent).await.unwrap();
    assert_eq!((tagged.reference.as_str(), tagged.bytes), ("hf:org/repo@v1:Q8_0", 2500));
    assert_eq!(tagged.revision.as_deref(), Some(TAGGED));
    // What was fetched of a tag is not what the main branch has.
    assert!(hub.find(&parse("hf:org/repo:Q8_0")).unwrap().is_none());
    let main = hub.pull(&parse("hf:org/repo:Q8_0"), &Silent).await.unwrap();
    assert_eq!((main.reference.as_str(), main.bytes), ("hf:org/repo:Q8_0", 3000));
    assert_eq!(names(&hub), ["hf:org/repo:Q8_0", "hf:org/repo@v1:Q8_0"]);
    let folder = dir.path().join(".cache/huggingface/hub/models--org--repo");
    assert_eq!(std::fs::read_to_string(folder.join("refs/v1")).unwrap(), TAGGED);
    // Other names of the same commit fetch no bytes and are found by themselves.
    let before = server.asked("/resolve/").len();
    for other in [format!("hf:org/repo@{TAGGED}:q8_0"), "hf:org/repo@next/one".into()] {
        let model = hub.pull(&parse(&other), &Silent).await.unwrap();
        assert_eq!((model.path.clone(), model.bytes), (tagged.path.clone(), 2500), "{other}");
        assert!(hub.find(&parse(&other)).unwrap().is_some());
    }
    assert!(hub.find(&parse(&format!("hf:org/repo@{}", &TAGGED[..8]))).unwrap().is_some());
    assert!(hub.find(&parse("hf:org/repo@abcdef0")).unwrap().is_none());
    assert_eq!(server.asked("/resolve/").len(), before);
    assert!(!folder.join("refs").join(TAGGED).exists(), "a commit needs no name");

    hub.remove(&parse("hf:org/repo@v1")).unwrap();
    assert_eq!(names(&hub), ["hf:org/repo:Q8_0"]);
    assert!(hub.find(&parse("hf:org/repo@next/one")).unwrap().is_none());
    assert_eq!(std::fs::read_dir(folder.join("blobs")).unwrap().count(), 1);
    hub.remove(&parse("hf:org/repo")).unwrap();
    assert!(tree(dir.path()).is_empty());
}

#[tokio::test]
async fn files_are_models_by_their_names() {
    let server = repository().await;
    let dir = tempfile::tempdir().unwrap();
    let hub = hub(dir.path(), &server.url(""), &[]);
    for (typed, reference, bytes) in [
        ("hf:org/repo:m-Q4_K_M.gguf", "hf:org/repo:Q4_K_M", 2000),
        ("hf:org/repo:M-Q8_0.GGUF", "hf:org/repo:Q8_0", 3000),
        ("hf:org/repo:BF16/", "hf:org/repo:BF16", 300),
        ("hf:org/repo:m-BF16-00002-of-00002.gguf", "hf:org/repo:BF16", 300),
        ("hf:org/repo/new/m-Q4_0.gguf", "hf:org/repo:new/m-Q4_0.gguf", 301),
        ("https://huggingface.co/org/repo/blob/main/old/m-Q4_0.gguf", "hf:org/repo:old/m-Q4_0.gguf", 300),
        ("hf.co/org/repo@v1:m-Q8_0.gguf", "hf:org/repo@v1:Q8_0", 2500),
    ] {
        let model = hub.pull(&parse(typed), &Silent).await.unwrap();
        assert_eq!(model.bytes, bytes, "{typed}");
        assert_eq!(hub.find(&parse(typed)).unwrap().unwrap().path, model.path, "{typed}");
        let again = hub.find(&parse(&model.reference)).unwrap().unwrap();
        assert_eq!(again.path, model.path, "{typed}: {}", model.reference);
        if !reference.contains("Q4_0") {
            assert_eq!(model.reference, reference, "{typed}");
        }
    }
    assert!(names(&hub).contains(&"hf:org/repo:old/m-Q4_0.gguf".to_owned()), "{:?}", names(&hub));
    let fit = hub.remote_headers(&parse("hf:org/repo:m-Q8_0.gguf")).await;
    assert!(matches!(fit, Err(HubError::BadHeader { .. })), "the file was asked for");
    // An address at the hub's own mirror is known, too.
    let pasted = hub.parse(&server.url("/org/repo/tree/v1")).unwrap();
    assert_eq!(pasted.to_string(), "hf:org/repo@v1");
}

#[tokio::test]
async fn wrong_names_get_the_nearest_ones() {
    let server = repository().await;
    let dir = tempfile::tempdir().unwrap();
    let hub = hub(dir.path(), &server.url(""), &[]);
    for (typed, text, hint) in [
        ("hf:org/repo:m-Q8.gguf", "no model at \"m-Q8.gguf\"", "did you mean m-Q8_0.gguf"),
        ("hf:org/repo:m-Q4_0.gguf", "no model at", "m-Q4_0.gguf"),
        ("hf:org/repo:mmproj-F16.gguf", "no model at", "it has "),
        ("hf:org/repo:BF61/", "no model at \"BF61/\"", "it has "),
        ("hf:org/repo:Q4_KM", "no quantisation Q4_KM", "did you mean Q4_K_M?"),
        ("hf:org/repo@v2", "no branch, tag or commit \"v2\"", "did you mean v1"),
        ("hf:org/repo@release", "no branch, tag or commit \"release\"", "it has main, next/one, v1"),
    ] {
        let error = hub.pull(&parse(typed), &Silent).await.unwrap_err();
        assert!(error.to_string().contains(text), "{typed}: {error}");
        assert!(error.hint().unwrap_or_default().contains(hint), "{typed}: {:?}", error.hint());
    }
    let error = hub.pull(&parse("hf:org/other@v1"), &Silent).await.unwrap_err();
    assert!(matches!(&error, HubError::NotFound { what, .. } if what == "hf:org/other"), "{error}");
    assert!(tree(dir.path()).is_empty());
}

/// Keeps why the model that is here was taken.
#[derive(Default)]
struct Heard(std::sync::Mutex<Vec<String>>);

impl Progress for Heard {
    fn event(&self, event: PullEvent<'_>) {
        if let PullEvent::Kept { reason } = event {
            self.0.lock().unwrap().push(reason.to_owned());
        }
    }
}

#[tokio::test]
async fn what_is_here_needs_no_server() {
    let server = repository().await;
    let dir = tempfile::tempdir().unwrap();
    let online = hub(dir.path(), &server.url(""), &[]);
    for reference in ["hf:org/repo:Q8_0", "hf:org/repo@v1"] {
        online.pull(&parse(reference), &Silent).await.unwrap();
    }
    let busy = Server::start(|_| Reply::status(503)).await;
    let nowhere = "http://127.0.0.1:1".to_owned();
    for (endpoint, switch, word) in [
        (&nowhere, ("HF_HUB_OFFLINE", "1"), "HF_HUB_OFFLINE"),
        (&nowhere, ("TRANSFORMERS_OFFLINE", "1"), "TRANSFORMERS_OFFLINE"),
        (&nowhere, ("LEVAIN_OFFLINE", "1"), "LEVAIN_OFFLINE"),
        (&nowhere, ("X", "1"), "can't reach"),
        (&busy.url(""), ("X", "1"), "503"),
    ] {
        let hub = hub(dir.path(), endpoint, &[switch]);
        let heard = Heard::default();
        for (reference, bytes) in [("hf:org/repo:Q8_0", 3000), ("hf:org/repo@v1:Q8_0", 2500)] {
            let model = hub.pull(&parse(reference), &heard).await.unwrap();
            assert_eq!(model.bytes, bytes);
        }
        let heard = heard.0.into_inner().unwrap();
        assert!(heard.len() == 2 && heard.iter().all(|reason| reason.contains(word)), "{heard:?}");
        for missing in ["hf:org/repo:Q4_K_M", "hf:org/repo@v2", "hf:org/none"] {
            assert!(hub.pull(&parse(missing), &Silent).await.is_err(), "{missing}");
        }
    }
}

/// Files as other programs leave them: without links, without names of branches, half fetched.
#[test]
fn caches_of_other_programs_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let write = |path: &str, content: &str| {
        let path = cache.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    };
    let shot = format!("models--org--bare/snapshots/{COMMIT}");
    write(&format!("{shot}/m-Q8_0.gguf"), "x");
    let sharded = format!("models--org--half/snapshots/{COMMIT}");
    write(&format!("{sharded}/config.json"), "{}");
    write(&format!("{sharded}/model-00001-of-00002.safetensors"), "x");
    write("models--org--half/refs/main", COMMIT);
    for variable in ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"] {
        let hub = hub(dir.path(), "http://127.0.0.1:1", &[(variable, cache.to_str().unwrap())]);
        assert_eq!(names(&hub), ["hf:org/bare:Q8_0"], "{variable}");
        write(&format!("{sharded}/model-00002-of-00002.safetensors"), "y");
        assert_eq!(names(&hub), ["hf:org/bare:Q8_0", "hf:org/half"]);
        std::fs::remove_file(cache.join(&sharded).join("model-00002-of-00002.safetensors")).unwrap();
        // The repository's folder is a model, too.
        let folder = ModelRef::File(cache.join("models--org--bare"));
        assert_eq!(hub.find(&folder).unwrap().unwrap().path, cache.join(&shot).join("m-Q8_0.gguf"));
    }
}

/// A cache that others fill need not be one that can be written.
#[cfg(unix)]
#[tokio::test]
async fn a_whole_model_is_pulled_without_a_write() {
    let server = repository().await;
    let dir = tempfile::tempdir().unwrap();
    let hub = hub(dir.path(), &server.url(""), &[]);
    hub.pull(&parse("hf:org/repo:Q8_0"), &Silent).await.unwrap();
    let state = |path: &Path| {
        let folder = path.join(".cache/huggingface/hub/models--org--repo");
        let refs = std::fs::metadata(folder.join("refs/main")).unwrap();
        (tree(path), std::os::unix::fs::MetadataExt::ino(&refs))
    };
    let locks = dir.path().join(".cache/huggingface/hub/.locks");
    std::fs::remove_dir_all(&locks).unwrap();
    let before = state(dir.path());
    hub.pull(&parse("hf:org/repo:Q8_0"), &Silent).await.unwrap();
    assert_eq!(state(dir.path()), before);
}

#[tokio::test]
async fn without_a_home_files_open_and_pulls_say_what_to_set() {
    let server = repository().await;
    let dir = tempfile::tempdir().unwrap();
    let hub = hub(dir.path(), &server.url(""), &[("HOME", "")]);
    assert!(hub.list().is_empty());
    let file = dir.path().join("m.gguf");
    std::fs::write(&file, "x").unwrap();
    assert!(hub.find(&ModelRef::File(file)).unwrap().is_some());
    for reference in ["hf:org/repo", "pypi:tiny-model", "https://example.com/m.gguf"] {
        let error = hub.pull(&parse(reference), &Silent).await.unwrap_err();
        assert!(matches!(error, HubError::NoHome), "{error}");
        assert!(error.hint().unwrap().contains("./model.gguf"));
    }
    assert!(server.asked("/").is_empty(), "nothing is asked for in vain");
}
