//! An engine with nothing to do uses no processor time. A process of its own, so that nothing else runs in it.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::mpsc::channel;
use std::time::Duration;

use levain_engine::{Engine, EngineConfig, Event, Request};
use levain_weights::Checkpoint;

#[test]
#[cfg(target_os = "linux")]
fn an_idle_engine_uses_no_time() {
    // Processor time of this process, in ticks of 10 ms.
    let cpu_ticks = || {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/llama-3.1");
    let engine = Engine::load(&Checkpoint::open(&folder).unwrap(), EngineConfig::default()).unwrap();
    let (done, ended) = channel();
    let mut request = Request::new(vec![5; 10], move |event| {
        if let Event::Finished { .. } = event {
            done.send(()).unwrap();
        }
        ControlFlow::Continue(())
    });
    request.max_tokens = Some(8);
    let _handle = engine.submit(request).unwrap();
    ended.recv().unwrap();
    std::thread::sleep(Duration::from_millis(50));
    let before = cpu_ticks();
    std::thread::sleep(Duration::from_millis(300));
    // A spinning thread would use 30.
    assert!(cpu_ticks() - before <= 3);
}
