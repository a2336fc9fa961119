//! A double of the controllers that lead a Service to its pods.

use hyper::http::Method;
use kube::Client;
use serde_json::json;

use super::request::send;

/// What they write when the kubelet has looked whether a pod is ready.
pub(crate) async fn lead(admin: &Client, namespace: &str, service: &str, is_ready: bool) {
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"generateName": format!("{service}-"), "labels": {"kubernetes.io/service-name": service}},
        // No slice may have an address of loopback.
        "endpoints": [{"addresses": ["192.0.2.1"], "conditions": {"ready": is_ready}}],
        "ports": [{"name": "webhook", "port": 8443, "protocol": "TCP"}]});
    let path = format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices");
    send(admin, Method::POST, &path, "application/json", slice.to_string()).await.granted();
}
