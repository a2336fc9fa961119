//! Follows one object.

use std::{fmt::Debug, time::Duration};

use futures_util::{Stream, StreamExt, stream};
use kube::{
    Api, Resource,
    runtime::{
        WatchStreamExt,
        watcher::{self, watch_object},
    },
};
use serde::de::DeserializeOwned;
use tokio::time::sleep;

use super::backoff::lengthened;

/// How often the object is read again. After a restore of etcd to an older state a watch stays silent until the API
/// server has reached the version from which it began.
const RESTART: Duration = Duration::from_mins(5);

/// Returns the object as it is now, and after each change; `None` if it does not exist. It is read again after five to
/// six minutes too, so the same state may come twice.
pub(crate) fn follow<K>(api: Api<K>, name: &str) -> impl Stream<Item = Result<Option<K>, watcher::Error>> + Send
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let name = name.to_owned();
    stream::repeat(()).flat_map(move |()| {
        let object = watch_object(api.clone(), &name).default_backoff();
        object.take_until(Box::pin(sleep(lengthened(RESTART)))).boxed()
    })
}

#[cfg(test)]
mod tests {
    use std::{
        future::{pending, ready},
        io,
        sync::{
            Arc,
            atomic::{AtomicU64, Ordering},
        },
    };

    use axum::body::Body;
    use futures_util::FutureExt;
    use hyper::{Request, Response};
    use k8s_openapi::api::core::v1::Secret;
    use kube::Client;
    use serde_json::json;
    use tower::service_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_object_whose_watch_is_silent_is_read_again() {
        let reads = Arc::<AtomicU64>::default();
        let count = Arc::clone(&reads);
        let service = service_fn(move |request: Request<kube::client::Body>| {
            if request.uri().query().unwrap_or_default().contains("watch=true") {
                return pending::<Result<Response<Body>, io::Error>>().boxed();
            }
            // As after a restore of etcd: an older version than before.
            let version = 100 - count.fetch_add(1, Ordering::Relaxed);
            let secret =
                json!({"metadata": {"name": "s", "namespace": "demo", "resourceVersion": version.to_string()}});
            let list = json!({"kind": "SecretList", "apiVersion": "v1", "items": [secret],
                "metadata": {"resourceVersion": version.to_string()}});
            ready(Ok(Response::new(Body::from(list.to_string())))).boxed()
        });
        let secrets: Api<Secret> = Api::namespaced(Client::new(service, "default"), "demo");
        let mut versions = std::pin::pin!(follow(secrets, "s"));
        for expected in ["100", "99", "98"] {
            let secret = versions.next().await.unwrap().unwrap().unwrap();
            assert_eq!(secret.metadata.resource_version.as_deref(), Some(expected));
        }
    }
}
