//! A name server that answers whatever a test wants, true or not, by UDP and TCP on one port.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;

/// One question, as the server sees it.
pub struct Ask {
    pub name: String,
    pub record: RecordType,
    pub tcp: bool,
    /// How often this name and type were asked before.
    pub nth: usize,
    pub message: Message,
}

impl Ask {
    /// A right answer with these records: addresses of the type that was asked for, or `CNAME owner target`.
    pub fn answer(&self, ttl: u32, addresses: &[&str]) -> Message {
        let mut message = self.code(ResponseCode::NoError);
        for text in addresses {
            let record = match text.split_once(" -> ") {
                Some((owner, target)) => Record::from_rdata(fqdn(owner), ttl, RData::CNAME(CNAME(fqdn(target)))),
                None => match (text.parse().unwrap(), self.record) {
                    (IpAddr::V4(ip), RecordType::A) => self.own(ttl, RData::A(A(ip))),
                    (IpAddr::V6(ip), RecordType::AAAA) => self.own(ttl, RData::AAAA(AAAA(ip))),
                    _ => continue,
                },
            };
            message.add_answer(record);
        }
        message
    }

    /// A record of the name that was asked for.
    pub fn own(&self, ttl: u32, data: RData) -> Record {
        Record::from_rdata(fqdn(&self.name), ttl, data)
    }

    /// An empty answer with a code.
    pub fn code(&self, code: ResponseCode) -> Message {
        let mut message = Message::response(self.message.metadata.id, self.message.metadata.op_code);
        message.metadata.response_code = code;
        message.metadata.recursion_available = true;
        message.add_queries(self.message.queries.clone());
        message
    }

    /// The negative answer with its SOA.
    pub fn negative(&self, code: ResponseCode, ttl: u32) -> Message {
        let mut message = self.code(code);
        let soa = SOA::new(fqdn("ns.test"), fqdn("root.test"), 1, 1, 1, 1, ttl);
        message.add_authority(Record::from_rdata(fqdn("test"), ttl, RData::SOA(soa)));
        message
    }

    /// The same answer to another question.
    pub fn about(&self, message: Message, name: &str) -> Message {
        let mut message = message;
        message.queries = vec![Query::query(fqdn(name), self.record)];
        message
    }
}

pub fn fqdn(name: &str) -> Name {
    Name::from_ascii(format!("{}.", name.trim_end_matches('.'))).unwrap()
}

type Asked = Arc<Mutex<HashMap<(String, RecordType), usize>>>;

pub struct DnsServer {
    pub address: SocketAddr,
    asked: Asked,
    _tasks: JoinSet<()>,
}

impl DnsServer {
    /// Starts on a free port. The handler's messages are sent in order; none: silence.
    pub async fn start(handler: impl Fn(&Ask) -> Vec<Message> + Send + Sync + 'static) -> Self {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.53:0").await.unwrap();
            // The TCP port of the same number may be taken.
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                break (udp, tcp);
            }
        };
        let address = udp.local_addr().unwrap();
        let asked = Asked::default();
        let handler = Arc::new(handler);
        let mut tasks = JoinSet::new();
        let respond = {
            let asked = Arc::clone(&asked);
            move |bytes: &[u8], tcp: bool| {
                let message = Message::from_vec(bytes).unwrap();
                let query = message.queries.first().unwrap();
                let name = query.name().to_ascii().trim_end_matches('.').to_owned();
                let record = query.query_type();
                let nth = {
                    let mut asked = asked.lock().unwrap();
                    let count = asked.entry((name.clone(), record)).or_default();
                    *count += 1;
                    *count - 1
                };
                handler(&Ask { name, record, tcp, nth, message })
            }
        };
        let by_udp = respond.clone();
        tasks.spawn(async move {
            let mut buffer = vec![0; 65_536];
            while let Ok((length, from)) = udp.recv_from(&mut buffer).await {
                for message in by_udp(&buffer[..length], false) {
                    let _ = udp.send_to(&message.to_vec().unwrap(), from).await;
                }
            }
        });
        tasks.spawn(async move {
            while let Ok((mut stream, _)) = tcp.accept().await {
                let Ok(length) = stream.read_u16().await else { continue };
                let mut bytes = vec![0; usize::from(length)];
                if stream.read_exact(&mut bytes).await.is_err() {
                    continue;
                }
                for message in respond(&bytes, true) {
                    let bytes = message.to_vec().unwrap();
                    let _ = stream.write_u16(u16::try_from(bytes.len()).unwrap()).await;
                    let _ = stream.write_all(&bytes).await;
                }
            }
        });
        Self { address, asked, _tasks: tasks }
    }

    /// How often a name and type were asked for.
    pub fn asked(&self, name: &str, record: RecordType) -> usize {
        self.asked.lock().unwrap().get(&(name.to_owned(), record)).copied().unwrap_or(0)
    }
}
