//! A Service that the API server calls.
//!
//! The chart's webhook configurations name a Service. The API server connects to the Service's ClusterIP and expects
//! `NAME.NAMESPACE.svc` in the certificate. On a node kube-proxy forwards such a connection. Here ClusterIPs are from
//! 127.66.0.0/16 (`tests/apiserver/flags.txt`). Linux has all of 127.0.0.0/8 on its loopback interface, so nicplug
//! listens on the ClusterIP itself.
//!
//! The port is 443, as in the chart. A process without root or `CAP_NET_BIND_SERVICE` may bind it only if the sysctl
//! `net.ipv4.ip_unprivileged_port_start` is 443 or less. Otherwise the Service and the webhook configurations get port
//! 8443; nothing else differs.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use hyper::http::Method;
use serde_json::{Value, json};

use super::{ApiServer, requests::send, webhooks::chart};

/// The first of the 65,536 ClusterIPs.
const RANGE: Ipv4Addr = Ipv4Addr::new(127, 66, 0, 0);
/// How many of the first addresses are left to the API server, which gives the first one to its own Service.
const RESERVED: u32 = 16;
/// The port that marks an address as in use.
const LOCK_PORT: u16 = 65_443;
/// The port of the chart, and the one that every process may bind.
const PORTS: [u16; 2] = [443, 8443];

/// A ClusterIP that no other test on this machine uses.
///
/// Several API servers give out addresses of the same range at the same time. A listener on [`LOCK_PORT`] of the
/// address keeps it from the others, in this process and in other ones.
pub(crate) struct ClusterIp {
    address: SocketAddr,
    _lock: TcpListener,
}

impl ClusterIp {
    pub(crate) fn reserve() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let size = (1 << 16) - 2 * RESERVED;
        for _ in 0..size {
            // Processes begin at different places.
            let index = process::id().wrapping_mul(251).wrapping_add(COUNT.fetch_add(1, Ordering::Relaxed)) % size;
            let ip = Ipv4Addr::from_bits(RANGE.to_bits() + RESERVED + index);
            match TcpListener::bind((ip, LOCK_PORT)) {
                Ok(lock) => return Self { address: (ip, port(ip)).into(), _lock: lock },
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                Err(error) => panic!("cannot listen on the ClusterIP {ip}, as Linux allows for 127.0.0.0/8: {error}"),
            }
        }
        panic!("all ClusterIPs are in use");
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Writes the address into the chart's Service, and its port into that Service and the webhook configurations.
    pub(crate) fn write_into(&self, object: &mut Value) {
        match object["kind"].as_str() {
            Some("Service") => {
                object["spec"]["clusterIP"] = json!(self.address.ip());
                let ports = object["spec"]["ports"].as_array_mut().unwrap();
                ports.iter_mut().find(|port| port["name"] == "https").unwrap()["port"] = json!(self.address.port());
            }
            Some("MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration") => {
                for webhook in object["webhooks"].as_array_mut().unwrap() {
                    webhook["clientConfig"]["service"]["port"] = json!(self.address.port());
                }
            }
            _ => {}
        }
    }
}

/// Returns the first port of an address that this process may bind.
fn port(ip: Ipv4Addr) -> u16 {
    let errors = PORTS.map(|port| match TcpListener::bind((ip, port)) {
        Ok(_) => Ok(port),
        Err(error) => Err(format!("{ip}:{port}: {error}")),
    });
    let port = errors.iter().find_map(|tried| tried.as_ref().ok());
    *port.unwrap_or_else(|| panic!("cannot listen on the port of a Service ({}): {errors:?}", module_path!()))
}

/// The chart's Service in a namespace of a test.
pub(crate) struct Service {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) ip: ClusterIp,
}

impl Service {
    /// Creates the Service `nicplug` in a namespace.
    pub(crate) async fn create(api: &ApiServer, namespace: &str) -> Self {
        Self::create_named(api, namespace, "nicplug").await
    }

    pub(crate) async fn create_named(api: &ApiServer, namespace: &str, name: &str) -> Self {
        let mut service = chart(namespace).into_iter().find(|object| object["kind"] == "Service").unwrap();
        service["metadata"]["name"] = json!(name);
        let path = format!("/api/v1/namespaces/{namespace}/services");
        loop {
            let ip = ClusterIp::reserve();
            ip.write_into(&mut service);
            let response = send(&api.admin(), Method::POST, &path, "application/json", service.to_string()).await;
            // The API server may have given the address to a Service that asked for any.
            if response.is_ok() || !response.message().contains("already allocated") {
                response.granted();
                return Self { namespace: namespace.to_owned(), name: name.to_owned(), ip };
            }
        }
    }

    /// Returns where the API server calls it.
    pub(crate) fn address(&self) -> SocketAddr {
        self.ip.address()
    }

    /// Returns the name that the API server expects in the certificate.
    pub(crate) fn host(&self) -> String {
        format!("{}.{}.svc", self.name, self.namespace)
    }
}
