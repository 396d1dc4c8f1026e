//! QUIC, by a real library (quinn): one connection, one stream.
//!
//! The library's tasks run in a thread of their own; the transfer is a plain loop beside it,
//! as those of TCP and UDP are.

use std::{
    io::{self, ErrorKind},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::Arc,
    thread,
    time::Duration,
};

use quinn::{
    ClientConfig, Connection, Endpoint, EndpointConfig, RecvStream, SendStream, ServerConfig,
    TokioRuntime,
    rustls::{
        RootCertStore,
        pki_types::{CertificateDer, PrivatePkcs8KeyDer},
    },
};
use rcgen::{CertificateParams, KeyPair, PKCS_ED25519};
use tokio::{
    runtime::{Builder, Runtime},
    time::timeout,
};

use super::{
    Args, End, Meter, Report, Role,
    meter::{Pacer, say},
};

/// Bytes of one read or write: less than a millisecond of 200 Mbit/s.
const CHUNK: usize = 16 * 1024;
/// How often a blocked flow looks whether it shall end, and how long a farewell may take.
const PATIENCE: Duration = Duration::from_millis(100);
/// The name in the certificate.
const NAME: &str = "peer";
/// An Ed25519 key in PKCS #8 (RFC 8410) but for its 32 bytes of secret.
const KEY_HEADER: [u8; 16] =
    [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];

/// Transfers as the command line says.
pub(super) fn run(args: &Args) -> io::Result<()> {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let (endpoint, connection, (send, recv)) = runtime.block_on(open(args))?;
    let meter = Meter::new(1);
    let bins = thread::scope(|scope| {
        scope.spawn(|| {
            let outcome = match args.role {
                Role::Send => sending(&runtime, send, &meter, args.rate_of_flow(1)),
                Role::Recv => receiving(&runtime, recv, &meter),
            };
            if let Err(error) = outcome {
                eprintln!("load: the stream ended: {error}");
            }
            meter.end();
        });
        meter.watch(args)
    })?;
    connection.close(0_u32.into(), b"");
    // A peer that has gone answers no farewell.
    runtime.block_on(async { timeout(PATIENCE, endpoint.wait_idle()).await }).ok();
    meter.finish(bins)
}

/// An endpoint and its only connection with its only stream. Whoever connects writes first: a
/// stream is there for its peer from its first byte on.
async fn open(args: &Args) -> io::Result<(Endpoint, Connection, (SendStream, RecvStream))> {
    let address = args.address()?;
    let (certificate, key) = identity().map_err(io::Error::other)?;
    match args.end {
        End::Connect => {
            let mut roots = RootCertStore::empty();
            roots.add(certificate).map_err(io::Error::other)?;
            let config = ClientConfig::with_root_certificates(Arc::new(roots))
                .map_err(io::Error::other)?;
            let any = if address.is_ipv4() {
                Ipv4Addr::UNSPECIFIED.into()
            } else {
                Ipv6Addr::UNSPECIFIED.into()
            };
            let endpoint = endpoint(SocketAddr::new(any, 0), None)?;
            let connecting = endpoint.connect_with(config, address, NAME);
            let connection = connecting.map_err(io::Error::other)?.await?;
            let (mut send, recv) = connection.open_bi().await?;
            send.write_all(&[0]).await?;
            Ok((endpoint, connection, (send, recv)))
        }
        End::Accept => {
            let config = ServerConfig::with_single_cert(vec![certificate], key.into())
                .map_err(io::Error::other)?;
            let endpoint = endpoint(address, Some(config))?;
            say(&Report::Listening)?;
            let incoming = endpoint.accept().await.ok_or(ErrorKind::NotConnected)?;
            let connection = incoming.await?;
            let (send, mut recv) = connection.accept_bi().await?;
            recv.read_exact(&mut [0]).await.map_err(io::Error::other)?;
            Ok((endpoint, connection, (send, recv)))
        }
        other => Err(io::Error::other(format!("{other:?} knows no QUIC"))),
    }
}

/// A socket of its own for each, whatever the library would prefer for an unspecified address.
fn endpoint(address: SocketAddr, config: Option<ServerConfig>) -> io::Result<Endpoint> {
    let socket = UdpSocket::bind(address)?;
    Endpoint::new(EndpointConfig::default(), config, socket, Arc::new(TokioRuntime))
}

/// The same certificate at both ends without a word between them: its key is no secret, and
/// all else in it is fixed.
fn identity() -> Result<(CertificateDer<'static>, PrivatePkcs8KeyDer<'static>), rcgen::Error> {
    let key = PrivatePkcs8KeyDer::from([&KEY_HEADER[..], &[7; 32]].concat());
    let pair = KeyPair::from_pkcs8_der_and_sign_algo(&key, &PKCS_ED25519)?;
    let certificate = CertificateParams::new([NAME.to_owned()])?.self_signed(&pair)?;
    Ok((certificate.der().clone(), key))
}

/// Writes until told to stop.
fn sending(
    runtime: &Runtime,
    mut stream: SendStream,
    meter: &Meter,
    rate: Option<f64>,
) -> io::Result<()> {
    let chunk = [0; CHUNK];
    let mut pacer = Pacer::new(rate);
    while !meter.stopped() {
        pacer.pace(CHUNK);
        match runtime.block_on(async { timeout(PATIENCE, stream.write(&chunk)).await }) {
            Ok(written) => meter.add(0, written?),
            Err(_elapsed) => {}
        }
    }
    Ok(())
}

/// Reads until told to stop, or the peer ends.
fn receiving(runtime: &Runtime, mut stream: RecvStream, meter: &Meter) -> io::Result<()> {
    let mut chunk = [0; CHUNK];
    while !meter.stopped() {
        match runtime.block_on(async { timeout(PATIENCE, stream.read(&mut chunk)).await }) {
            Ok(read) => match read? {
                Some(len) => meter.add(0, len),
                None => break,
            },
            Err(_elapsed) => {}
        }
    }
    Ok(())
}
