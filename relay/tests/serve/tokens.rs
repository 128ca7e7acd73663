//! The longest token, on every way in.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use blazedb_relay::token::TOKEN_BYTES_MAX;
use blazedb_wire::websocket::{Event, OpCode};
use jsonwebtoken::{Algorithm, EncodingKey, Header};

use super::*;

impl Relay {
    /// A token of exactly so many bytes: one claim more, which means nothing.
    fn token_of(&self, bytes: usize) -> String {
        // It makes the key, and chooses who signs.
        self.token("home");
        let key = std::fs::read_to_string(self.dir.path().join(token::KEY_FILE)).unwrap();
        let key = EncodingKey::from_secret(&STANDARD.decode(key.trim()).unwrap());
        let now = token::unix_now();
        let padded = |pad: usize| {
            let claims = serde_json::json!({
                "iss": token::ISSUER, "aud": token::AUDIENCE, "sub": "ann", "space": "home", "iat": now, "exp": now + 600,
                "pad": "x".repeat(pad),
            });
            jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).unwrap()
        };
        let token = (0..bytes).rev().map(padded).find(|token| token.len() <= bytes).unwrap();
        assert_eq!(token.len(), bytes);
        token
    }
}

// spec: G-8, G-11
#[tokio::test]
async fn the_longest_token_opens_a_session_on_every_way() {
    let relay = Relay::start().await;
    let token = relay.token_of(TOKEN_BYTES_MAX);
    let (sender, mut receiver) = soon("open", open_stream(&relay.target(&token))).await.unwrap();
    sender.send(Bytes::from_static(b"hello")).await.unwrap();
    assert_eq!(soon("the echo", receiver.next()).await.unwrap(), Some(Bytes::from_static(b"hello")));

    let bearer = format!("Bearer {token}");
    for over_http1 in [false, true] {
        let request = relay.web(SYNC_PATH, message(b"hello"), "application/grpc-web", &[("authorization", &bearer)]);
        let response = if over_http1 {
            soon("answer", relay.http1().await.send_request(web::to_path(request))).await.unwrap()
        } else {
            soon("answer", relay.raw().await.0.send_request(request)).await.unwrap()
        };
        assert_eq!(response.status(), StatusCode::OK, "{over_http1}");
        assert_eq!(web::whole(response).await, [&message(b"hello")[..], web::GOOD_END].concat());
    }

    let protocols = format!("blaze.v1, bearer.{token}");
    for way in [("authorization", &bearer), ("sec-websocket-protocol", &protocols)] {
        let (head, mut page) = relay.shake(&[&websocket::GOOD[..], &[(way.0, way.1)]].concat()).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        page.say(OpCode::Binary, b"hello").await;
        assert_eq!(page.next().await, Some(Event::Message(Bytes::from_static(b"hello"))), "{}", way.0);
    }
    // What a browser and its extensions send beside it has room, too.
    let (head, _page) = relay
        .shake(&[&websocket::GOOD[..], &[("authorization", &bearer), ("user-agent", &"x".repeat(1_000))]].concat())
        .await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");

    assert_eq!(code_of(&relay.refused(&relay.token_of(TOKEN_BYTES_MAX + 1)).await), Code::Unauthenticated);
}
