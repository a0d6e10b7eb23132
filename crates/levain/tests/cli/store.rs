//! Listing, fetching and removing, with a server on this machine.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use crate::support::{Home, golden};

const SNAPSHOT: &str =
    ".cache/huggingface/hub/models--org--Tiny-GGUF/snapshots/0123456789abcdef0123456789abcdef01234567";

fn stored() -> Home {
    let home = Home::new();
    home.file(&format!("{SNAPSHOT}/Tiny-Q8_0.gguf"), &"x".repeat(2500));
    home.file(&format!("{SNAPSHOT}/Tiny-Q4_K_M.gguf"), &"x".repeat(1500));
    home
}

#[test]
fn an_empty_store_is_listed_quietly() {
    let ran = Home::new().run(&["list"]);
    assert_eq!(ran.code, 0);
    assert!(ran.out.is_empty() && ran.err.contains("no models are here yet"), "{ran:?}");
    assert_eq!(Home::new().run(&["list", "--json"]).ok(), "{\"version\":1,\"models\":[]}\n");
}

#[test]
fn models_are_listed_and_removed() {
    let home = stored();
    golden("list.txt", &home.run(&["list"]).ok());
    assert_eq!(home.run(&["list", "-q"]).ok(), "hf:org/Tiny-GGUF:Q4_K_M\nhf:org/Tiny-GGUF:Q8_0\n");
    let json = home.run(&["list", "--json"]).json();
    assert_eq!(json["models"][0]["bytes"], 1500);
    assert_eq!(json["models"][1]["reference"], "hf:org/Tiny-GGUF:Q8_0");

    let ran = home.run(&["rm", "hf:org/tiny-gguf:q8_0"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("hint: did you mean hf:org/Tiny-GGUF:Q8_0"), "{}", ran.err);
    let ran = home.run(&["rm", "tiny-gguf"]);
    assert!(ran.err.contains("did you mean hf:org/Tiny-GGUF:"), "{}", ran.err);
    // One wrong name, and nothing is removed.
    assert_eq!(home.run(&["rm", "hf:org/Tiny-GGUF:Q8_0", "hf:org/other"]).code, 1);
    assert_eq!(home.run(&["list", "-q"]).ok().lines().count(), 2);
    let json = home.run(&["rm", "hf:org/Tiny-GGUF", "--json"]).json();
    assert_eq!(json["removed"], "hf:org/Tiny-GGUF:Q4_K_M");
    assert_eq!(home.run(&["list", "-q"]).ok(), "");
}

#[test]
fn a_file_that_is_no_model_is_refused_with_its_name() {
    let home = stored();
    for verb in ["show", "fit"] {
        let ran = home.run(&[verb, "hf:org/Tiny-GGUF:Q8_0"]);
        assert_eq!(ran.code, 1, "{}", ran.err);
        assert!(ran.err.contains("Tiny-Q8_0.gguf"), "{}", ran.err);
    }
}

/// Shapes that no memory holds, of which one dimension of 0 makes nothing.
#[test]
fn impossible_shapes_are_refused_with_the_tensor() {
    let home = Home::new();
    let folder = home.file("odd/config.json", "{}").parent().unwrap().to_owned();
    let json = r#"{"t":{"dtype":"F32","shape":[9223372036854775808,2,0,1],"data_offsets":[0,0]}}"#;
    let file = [&(json.len() as u64).to_le_bytes()[..], json.as_bytes()].concat();
    std::fs::write(folder.join("model.safetensors"), file).unwrap();
    let name = [&1u64.to_le_bytes()[..], b"t"].concat();
    let [one, two] = [1u64, 2].map(u64::to_le_bytes);
    let shape = [&2u32.to_le_bytes()[..], &(1u64 << 63).to_le_bytes(), &two].concat();
    let gguf = [&b"GGUF\x03\0\0\0"[..], &one, &0u64.to_le_bytes(), &name, &shape, &[0; 12]].concat();
    std::fs::write(home.dir.path().join("odd.gguf"), gguf).unwrap();
    for verb in ["show", "fit"] {
        for model in ["./odd", "./odd.gguf"] {
            let ran = home.run(&[verb, model]);
            assert_eq!(ran.code, 1, "{verb} {model}: {ran:?}");
            assert!(ran.err.contains("tensor \"t\"") && ran.err.contains("overflows"), "{verb}: {}", ran.err);
        }
    }
}

/// Serves `file` slowly at `/m.gguf` and counts the requests.
fn slow_server(file: Vec<u8>) -> (u16, Arc<Mutex<usize>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, count) = (listener.local_addr().unwrap().port(), Arc::new(Mutex::new(0)));
    let counted = Arc::clone(&count);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, file, counted) = (stream.unwrap(), file.clone(), Arc::clone(&counted));
            std::thread::spawn(move || {
                let mut head = [0; 4096];
                let _ = stream.read(&mut head);
                *counted.lock().unwrap() += 1;
                let _ = write!(
                    stream,
                    "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                    file.len()
                );
                for piece in file.chunks(file.len() / 4) {
                    std::thread::sleep(std::time::Duration::from_millis(150));
                    let _ = stream.write_all(piece);
                }
            });
        }
    });
    (port, count)
}

#[test]
fn two_processes_make_one_transfer() {
    let (port, count) = slow_server(vec![7; 40_000]);
    let home = Home::new();
    let address = format!("http://127.0.0.1:{port}/m.gguf");
    let pulls: Vec<_> =
        (0..2).map(|_| home.command(&["pull", "--json", &address]).spawn().unwrap()).collect();
    for pull in pulls {
        let output = pull.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(json["bytes"], 40_000);
    }
    assert_eq!(*count.lock().unwrap(), 1);
}

#[cfg(unix)]
#[test]
fn an_interrupted_pull_ends_with_130_and_goes_on_later() {
    let (port, count) = slow_server(vec![7; 40_000]);
    let home = Home::new();
    let address = format!("http://127.0.0.1:{port}/m.gguf");
    let child = home.command(&["pull", &address]).spawn().unwrap();
    while *count.lock().unwrap() == 0 {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let killed = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(home.run(&["list", "-q"]).ok(), "", "a part must not look like a model");
    assert_eq!(home.run(&["pull", &address]).code, 0);
    assert_eq!(home.run(&["list", "-q"]).ok(), format!("{address}\n"));
}
