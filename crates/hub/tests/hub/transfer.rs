//! Broken, lying and contested transfers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::{COMMIT, Reply, Request, Server, hub, listing, noise, sha256, tree};
use levain_hub::{HubError, ModelRef, Silent};

const FILE: &str = "model-Q4_K_M.gguf";

fn reference() -> ModelRef {
    ModelRef::parse("hf:org/repo").unwrap()
}

/// A server with one GGUF whose transfer `answer` decides; it gets the number of the request for the file.
async fn server(
    bytes: Vec<u8>,
    answer: impl Fn(usize, &Request, &[u8]) -> Reply + Send + Sync + 'static,
) -> Server {
    let count = AtomicUsize::new(0);
    Server::start(move |request| {
        if request.path.starts_with("/api/models/org/repo/revision/main") {
            return Reply::json(listing(&[(FILE, &bytes), ("README.md", b"hello")]));
        }
        answer(count.fetch_add(1, Ordering::Relaxed), request, &bytes)
    })
    .await
}

#[tokio::test]
async fn cuts_anywhere_resume_without_fetching_twice() {
    let bytes = noise(100_000);
    for percent in (1..=99).step_by(2) {
        let at = bytes.len() * percent / 100;
        let server = server(bytes.clone(), move |n, request, bytes| {
            let whole = Reply::file(request, bytes, "\"v1\"");
            if n == 0 { whole.cut(at) } else { whole }
        })
        .await;
        let dir = tempfile::tempdir().unwrap();
        let model = hub(dir.path(), &server.url(""), &[]).pull(&reference(), &Silent).await.unwrap();
        assert_eq!(std::fs::read(&model.path).unwrap(), bytes);
        let asked = server.asked("/resolve/");
        assert_eq!(asked.len(), 2);
        assert_eq!(asked[1].range(), Some((at, None)), "cut at {at}");
        assert_eq!(asked[1].header("if-range"), Some("\"v1\""));
        let sent = *server.body_bytes_sent.lock().unwrap();
        assert!(sent <= bytes.len() + 2000, "{sent} bytes were sent for {}", bytes.len());
    }
}

#[tokio::test]
async fn a_later_run_goes_on_where_the_first_stopped() {
    let bytes = noise(50_000);
    let server = server(bytes.clone(), |n, request, bytes| match n {
        0 => Reply::file(request, bytes, "\"v1\"").cut(30_000),
        1..=4 => Reply::status(503),
        _ => Reply::file(request, bytes, "\"v1\""),
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let error = hub(dir.path(), &server.url(""), &[]).pull(&reference(), &Silent).await.unwrap_err();
    assert!(matches!(error, HubError::Status { status: 503, .. }), "{error}");
    let hub = hub(dir.path(), &server.url(""), &[]);
    assert!(
        hub.find(&reference()).unwrap().is_none() && hub.list().is_empty(),
        "a part must not look like a model"
    );
    let model = hub.pull(&reference(), &Silent).await.unwrap();
    assert_eq!(std::fs::read(&model.path).unwrap(), bytes);
    assert_eq!(server.asked("/resolve/").last().unwrap().range(), Some((30_000, None)));
}

#[tokio::test]
async fn a_flipped_byte_is_never_visible() {
    let bytes = noise(20_000);
    let server = server(bytes, |_, request, bytes| {
        let mut reply = Reply::file(request, bytes, "\"v1\"");
        reply.body[7_777] ^= 1;
        reply
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let hub = hub(dir.path(), &server.url(""), &[]);
    let error = hub.pull(&reference(), &Silent).await.unwrap_err();
    assert!(matches!(error, HubError::Damaged { kind: "sha256", .. }), "{error}");
    let left: Vec<String> = tree(dir.path()).into_iter().filter(|name| !name.contains(".locks/")).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn damage_in_what_an_earlier_run_left_costs_one_fresh_start() {
    let bytes = noise(20_000);
    let digest = sha256(&bytes);
    let server = server(bytes.clone(), |_, request, bytes| Reply::file(request, bytes, "\"v1\"")).await;
    let dir = tempfile::tempdir().unwrap();
    let blobs = dir.path().join(".cache/huggingface/hub/models--org--repo/blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    std::fs::write(blobs.join(format!("{digest}.incomplete")), vec![0; 5_000]).unwrap();
    let model = hub(dir.path(), &server.url(""), &[]).pull(&reference(), &Silent).await.unwrap();
    assert_eq!(std::fs::read(&model.path).unwrap(), bytes);
    let ranges: Vec<_> = server.asked("/resolve/").iter().map(|request| request.range()).collect();
    assert_eq!(ranges, [Some((5_000, None)), None]);
}

#[tokio::test]
async fn servers_that_lie_about_lengths_and_ranges_are_found_out() {
    type Lie = fn(Reply) -> Reply;
    let lies: [(&str, Lie, bool); 5] = [
        (
            "a longer file",
            |mut r| {
                r.body.push(0);
                r
            },
            false,
        ),
        (
            "a shorter file",
            |mut r| {
                r.body.truncate(900);
                r
            },
            false,
        ),
        (
            "a wrong total",
            |mut r| {
                r.headers.retain(|(name, _)| name != "content-range");
                if r.status == 206 { r.header("content-range", "bytes 500-999/4000") } else { r }
            },
            false,
        ),
        (
            "a wrong start",
            |mut r| {
                r.headers.retain(|(name, _)| name != "content-range");
                if r.status == 206 { r.header("content-range", "bytes 400-999/1000") } else { r }
            },
            true,
        ),
        ("a length that never comes", |r| r.header("content-length", "1000").cut(300), true),
    ];
    for (name, lie, heals) in lies {
        let bytes = noise(1000);
        let server = server(bytes.clone(), move |n, request, bytes| {
            let reply = Reply::file(request, bytes, "\"v1\"");
            if n == 0 && name.starts_with("a wrong") { reply.cut(500) } else { lie(reply) }
        })
        .await;
        let dir = tempfile::tempdir().unwrap();
        let hub = hub(dir.path(), &server.url(""), &[]);
        match hub.pull(&reference(), &Silent).await {
            Ok(model) => assert!(heals && std::fs::read(&model.path).unwrap() == bytes, "{name}"),
            Err(error) => {
                assert!(!heals || matches!(error, HubError::Unreachable { .. }), "{name}: {error}");
                assert!(hub.find(&reference()).unwrap().is_none(), "{name}");
            }
        }
        assert!(server.asked("/resolve/").len() < 60, "{name}: it must give up");
    }
}

#[tokio::test]
async fn an_address_without_a_digest_starts_again_when_the_file_changes() {
    let (old, new) = (noise(10_000), vec![7; 9_000]);
    let (first, second) = (old.clone(), new.clone());
    let count = AtomicUsize::new(0);
    let server = Server::start(move |request| match count.fetch_add(1, Ordering::Relaxed) {
        0 => Reply::file(request, &first, "\"old\"").cut(4_000),
        _ => Reply::file(request, &second, "\"new\""),
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let hub = hub(dir.path(), "http://127.0.0.1:1", &[]);
    let reference = ModelRef::parse(&server.url("/m.gguf")).unwrap();
    let model = hub.pull(&reference, &Silent).await.unwrap();
    assert_eq!(std::fs::read(&model.path).unwrap(), new);
    assert_eq!(model.files[0].sha256.as_deref(), Some(sha256(&new).as_str()));
    assert_eq!(hub.require(&reference).unwrap(), model);
}

#[tokio::test]
async fn a_server_that_changes_the_file_each_time_is_given_up() {
    let count = AtomicUsize::new(0);
    let server = Server::start(move |request| {
        let n = count.fetch_add(1, Ordering::Relaxed);
        let etag = format!("\"{n}\"");
        let mut reply = Reply::file(request, &noise(10_000), &etag).cut(1_000);
        if let Some((start, _)) = request.range() {
            // It pretends to know the version that it was asked for.
            reply = Reply::file(
                &Request {
                    path: String::new(),
                    headers: [("range".into(), format!("bytes={start}-"))].into(),
                },
                &noise(10_000),
                &etag,
            )
            .cut(1_000);
        }
        reply
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let hub = hub(dir.path(), "http://127.0.0.1:1", &[]);
    let error = hub.pull(&ModelRef::parse(&server.url("/m.gguf")).unwrap(), &Silent).await.unwrap_err();
    assert!(matches!(error, HubError::BadAnswer { .. }), "{error}");
    assert!(hub.list().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_pullers_make_one_transfer() {
    let bytes = noise(200_000);
    let server = server(bytes.clone(), |_, request, bytes| {
        std::thread::sleep(std::time::Duration::from_millis(120));
        Reply::file(request, bytes, "\"v1\"")
    })
    .await;
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let pulls: Vec<_> = (0..8)
        .map(|_| {
            let hub = hub(dir.path(), &server.url(""), &[]);
            tokio::spawn(async move { hub.pull(&reference(), &Silent).await.unwrap() })
        })
        .collect();
    for pull in pulls {
        assert_eq!(std::fs::read(&pull.await.unwrap().path).unwrap(), bytes);
    }
    assert_eq!(server.asked("/resolve/").len(), 1);
    let files: Vec<String> = tree(dir.path()).into_iter().filter(|name| !name.contains(".locks/")).collect();
    let root = ".cache/huggingface/hub/models--org--repo";
    assert_eq!(
        files,
        [
            format!("{root}/blobs/{}", sha256(&bytes)),
            format!("{root}/refs/main"),
            format!("{root}/snapshots/{COMMIT}/{FILE}"),
        ]
    );
}

#[tokio::test]
async fn a_token_stays_with_its_server() {
    let bytes = noise(1_000);
    let content = bytes.clone();
    let other = Server::start(move |request| Reply::file(request, &content, "\"v1\"")).await;
    let away = other.url("/cdn/blob?Signature=s3cret");
    let first = server(bytes.clone(), move |_, _, _| Reply::status(302).header("location", &away)).await;
    let dir = tempfile::tempdir().unwrap();
    let hub = hub(dir.path(), &first.url(""), &[("HF_TOKEN", "hf_mine")]);
    let model = hub.pull(&reference(), &Silent).await.unwrap();
    assert_eq!(std::fs::read(&model.path).unwrap(), bytes);
    assert!(first.asked("/").iter().all(|request| request.header("authorization") == Some("Bearer hf_mine")));
    let elsewhere = other.asked("/cdn/");
    assert!(!elsewhere.is_empty());
    assert!(elsewhere.iter().all(|request| request.header("authorization").is_none()), "{elsewhere:?}");
}

#[tokio::test]
async fn redirects_end() {
    let server =
        Server::start(|request| Reply::status(307).header("location", &format!("{}x", request.path))).await;
    let dir = tempfile::tempdir().unwrap();
    let error = hub(dir.path(), &server.url(""), &[]).pull(&reference(), &Silent).await.unwrap_err();
    assert!(matches!(error, HubError::TooManyRedirects { .. }), "{error}");
    assert!(server.asked("/").len() < 12);
}
