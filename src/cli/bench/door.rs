//! The HTTP listener, open for the time of one request.

use tokio::sync::watch;

use crate::cli::Failure;
use crate::dispatch::Dispatcher;
use crate::ingress::http::{HttpDoor, HttpSettings, Limits};

/// Opens the listener, calls `ask` with its address, `http://…`, and closes it. `ask` may block.
pub(super) async fn through<T: Send + 'static>(
    postrider: &Dispatcher,
    ask: impl FnOnce(String) -> Result<T, String> + Send + 'static,
) -> Result<T, Failure> {
    let failed = |error: String| Failure::Failed(error);
    let settings = HttpSettings {
        listen: ([127, 0, 0, 1], 0).into(),
        tokens: Vec::new(),
        limits: Limits::default(),
    };
    let door = HttpDoor::bind(settings).await;
    let door = door.map_err(|error| failed(error.to_string()))?;
    let url = format!("http://{}", door.local_addr());
    let (stop, stopped) = watch::channel(false);
    let served = tokio::spawn(door.serve(postrider.clone(), stopped));

    let asked = tokio::task::spawn_blocking(move || ask(url)).await;
    stop.send_replace(true);
    let _ = served.await;
    let asked = asked.map_err(|error| failed(error.to_string()))?;
    asked.map_err(failed)
}
