//! Web servers behind the balancer: nginx with TLS, prepared for direct server return.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use crate::bed::Bed;
use crate::daemon::Daemon;
use crate::node::Node;
use crate::wait::wait_until;

/// The name that the servers go by.
pub const HOST: &str = "www.foobar.com";

/// A certification authority, and the certificate that all web servers of a bed share.
#[derive(Clone, Debug)]
pub struct Authority {
    directory: PathBuf,
}

impl Authority {
    /// Makes an authority, and a certificate for [`HOST`] and the virtual addresses.
    #[track_caller]
    pub fn new(bed: &Bed, vips: &[IpAddr]) -> Self {
        let directory = bed.directory().join("tls");
        fs::create_dir(&directory).expect("failed to make a directory for certificates");
        let authority = Self { directory };

        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        ca.distinguished_name.push(DnType::CommonName, "test bed");
        let ca_key = KeyPair::generate().expect("failed to make a key");
        let certificate = ca.self_signed(&ca_key).expect("failed to sign the authority");
        authority.write("ca.pem", &certificate.pem());

        let names = [HOST.to_owned()].into_iter().chain(vips.iter().map(IpAddr::to_string));
        let mut leaf = CertificateParams::new(names.collect::<Vec<_>>())
            .expect("the names of the servers are no names for a certificate");
        leaf.distinguished_name.push(DnType::CommonName, HOST);
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().expect("failed to make a key");
        let signed = leaf.signed_by(&key, &Issuer::new(ca, ca_key));
        authority.write("cert.pem", &signed.expect("failed to sign the servers").pem());
        authority.write("key.pem", &key.serialize_pem());
        authority
    }

    /// The authority's certificate, for those who check.
    pub fn ca(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.directory.join(name), text).expect("failed to write a certificate");
    }
}

/// An nginx in a node. `/` answers with the node's name (header `X-Server`, and the body),
/// `/healthz` with 200, or 503 after [`Web::set_healthy`]; `/upload` takes bodies of any size.
#[derive(Debug)]
pub struct Web {
    node: Node,
    directory: PathBuf,
    daemon: Option<Daemon>,
}

impl Web {
    /// Prepares a node for direct server return, starts nginx in it on ports 80 and 443, and
    /// waits until it serves. The virtual addresses are on its loopback, where ARP does not
    /// tell of them (IPv6 answers for the addresses of the asked interface only).
    #[track_caller]
    pub fn start(node: &Node, authority: &Authority, vips: &[IpAddr]) -> Self {
        node.sysctl("ipv4.conf.all.arp_ignore", "1");
        node.sysctl("ipv4.conf.all.arp_announce", "2");
        for vip in vips {
            match vip {
                IpAddr::V4(vip) => node.ip(&format!("addr add {vip}/32 dev lo")),
                IpAddr::V6(vip) => node.ip(&format!("addr add {vip}/128 dev lo nodad")),
            };
        }
        let directory = node.directory().join("nginx");
        for name in ["", "tmp"] {
            fs::create_dir(directory.join(name)).expect("failed to make nginx's directories");
        }
        let config = config(&directory, &authority.directory, node.name());
        fs::write(directory.join("nginx.conf"), config).expect("failed to write nginx.conf");
        let mut web = Self { node: node.clone(), directory, daemon: None };
        web.restart();
        web
    }

    /// The node that it runs in.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Ends nginx and its workers by SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill();
        }
    }

    /// Starts nginx (again), and waits until it serves.
    #[track_caller]
    pub fn restart(&mut self) {
        self.kill();
        let mut command = self.node.command("nginx");
        command.arg("-p").arg(&self.directory).arg("-c").arg(self.directory.join("nginx.conf"));
        command.arg("-e").arg(self.directory.join("error.log"));
        let mut daemon = self.node.spawn("nginx", command);
        wait_until(
            Duration::from_secs(10),
            &format!("nginx of {} serves", self.node.name()),
            || {
                if !daemon.is_alive() {
                    let errors = fs::read_to_string(self.directory.join("error.log"));
                    panic!("nginx ended: {}{}", daemon.log(), errors.unwrap_or_default());
                }
                self.node
                    .enter(|| std::net::TcpStream::connect((self.node.ipv4(), 443)))
                    .map(drop)
                    .map_err(|error| error.to_string())
            },
        );
        self.daemon = Some(daemon);
    }

    /// Makes `/healthz` answer 200 or 503.
    #[track_caller]
    pub fn set_healthy(&self, healthy: bool) {
        let mark = self.directory.join("unhealthy");
        let done = match (healthy, mark.exists()) {
            (true, true) => fs::remove_file(&mark),
            (false, false) => fs::write(&mark, ""),
            _ => Ok(()),
        };
        done.expect("failed to change the health of a web server");
    }

    /// A line for each answer, written a little after it: from whom, path, status, `Host`.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("access.log")).unwrap_or_default()
    }

    /// Requests that it has answered, health checks apart.
    pub fn requests(&self) -> usize {
        self.log().lines().filter(|line| !line.contains("/healthz")).count()
    }
}

fn config(directory: &Path, tls: &Path, name: &str) -> String {
    let (dir, tls) = (directory.display(), tls.display());
    format!(
        "daemon off;
pid {dir}/nginx.pid;
worker_processes 1;
user root;
events {{ worker_connections 512; }}
http {{
  log_format short '$remote_addr $request_uri $status $http_host';
  access_log {dir}/access.log short;
  client_body_temp_path {dir}/tmp/b;
  proxy_temp_path {dir}/tmp/p;
  fastcgi_temp_path {dir}/tmp/f;
  uwsgi_temp_path {dir}/tmp/u;
  scgi_temp_path {dir}/tmp/s;
  client_max_body_size 0;
  default_type text/plain;
  server {{
    listen 80;
    listen [::]:80;
    listen 443 ssl;
    listen [::]:443 ssl;
    ssl_certificate {tls}/cert.pem;
    ssl_certificate_key {tls}/key.pem;
    add_header X-Server {name} always;
    location = /healthz {{
      if (-f {dir}/unhealthy) {{ return 503; }}
      return 200 \"ok {name}\\n\";
    }}
    # A location that returns does not read bodies; one that passes them on reads them first.
    location = /upload {{
      proxy_pass http://127.0.0.1/uploaded;
      proxy_hide_header X-Server;
    }}
    location = /uploaded {{ access_log off; return 200; }}
    location = /missing {{ return 404; }}
    location / {{ return 200 \"{name}\\n\"; }}
  }}
}}
"
    )
}
