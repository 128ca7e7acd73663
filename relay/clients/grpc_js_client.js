// @grpc/grpc-js as a client of the relay: grpc_js_client.js ADDRESS CERTIFICATE TOKEN. Says what it did; fails otherwise.
'use strict';

const assert = require('node:assert');
const fs = require('node:fs');
const grpc = require('@grpc/grpc-js');

const [address, certificate, token] = process.argv.slice(2);
const SERVING = Buffer.from([8, 1]);
const { status } = grpc;

const same = (bytes) => bytes;
const method = (path, requestStream, responseStream) => ({
    path, requestStream, responseStream, requestSerialize: same, requestDeserialize: same,
    responseSerialize: same, responseDeserialize: same,
});
const Client = grpc.makeGenericClientConstructor({
    check: method('/grpc.health.v1.Health/Check', false, false),
    watch: method('/grpc.health.v1.Health/Watch', false, true),
    nothing: method('/blaze.v1.Relay/Nothing', false, false),
    sync: method('/blaze.v1.Relay/Sync', true, true),
}, 'relay');

// A frame of a session: 16 bytes of header and the body (spec/frame.md).
function frame(kind, body) {
    const head = Buffer.alloc(16);
    head.write('BZ');
    head[3] = kind;
    head.writeUInt32LE(body.length, 8);
    head.writeUInt32LE(crc32(Buffer.concat([head.subarray(0, 12), body])), 12);
    return Buffer.concat([head, body]);
}

function crc32(bytes) {
    let crc = 0xffffffff;
    for (const byte of bytes) {
        crc ^= byte;
        for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
    }
    return (crc ^ 0xffffffff) >>> 0;
}

const HELLO = frame(1, Buffer.concat([Buffer.from([1, 0]), Buffer.alloc(19)]));

// The next message of a stream, or its error.
const next = (stream) => new Promise((resolve, reject) => {
    stream.once('data', (message) => { stream.removeListener('error', reject); resolve(message); });
    stream.once('error', reject);
});
const unary = (client, name, message, options = {}) => new Promise((resolve, reject) => {
    client[name](message, options, (error, answer) => (error ? reject(error) : resolve(answer)));
});

async function refused(what, call, code) {
    try {
        await call;
    } catch (error) {
        assert.strictEqual(error.code, code, `${what}: ${error}`);
        console.log(`${what}: ${status[code]}, "${error.details}"`);
        return;
    }
    assert.fail(`${what}: it went well`);
}

async function main() {
    const options = { 'grpc.ssl_target_name_override': 'localhost', 'grpc.default_authority': 'localhost' };
    const client = new Client(address, grpc.credentials.createSsl(fs.readFileSync(certificate)), options);
    const asked = Buffer.from('\n\x0eblaze.v1.Relay');
    assert.deepStrictEqual(await unary(client, 'check', Buffer.alloc(0)), SERVING);
    assert.deepStrictEqual(await unary(client, 'check', asked), SERVING);
    const packing = new Client(address, grpc.credentials.createSsl(fs.readFileSync(certificate)), {
        ...options, 'grpc.default_compression_algorithm': 2,
    });
    assert.deepStrictEqual(await unary(packing, 'check', asked), SERVING);
    packing.close();
    console.log('Check, and once more with gzip: SERVING');
    await refused('a service that is not there', unary(client, 'check', Buffer.from('\n\x05other')), status.NOT_FOUND);
    await refused('a method that is not there', unary(client, 'nothing', Buffer.alloc(0)), status.UNIMPLEMENTED);
    const many = Array.from({ length: 500 }, () => unary(client, 'check', Buffer.alloc(0)));
    for (const answer of await Promise.all(many)) assert.deepStrictEqual(answer, SERVING);
    console.log('500 calls at once: answered');

    let watched = client.watch(Buffer.alloc(0));
    assert.deepStrictEqual(await next(watched), SERVING);
    watched.cancel();
    await refused('a call that was cancelled', next(watched), status.CANCELLED);
    watched = client.watch(Buffer.alloc(0), { deadline: Date.now() + 300 });
    assert.deepStrictEqual(await next(watched), SERVING);
    await refused('a deadline', next(watched), status.DEADLINE_EXCEEDED);

    const metadata = new grpc.Metadata();
    metadata.set('authorization', `Bearer ${token}`);
    const session = client.sync(metadata);
    session.write(HELLO);
    const welcome = await next(session);
    assert.strictEqual(welcome.toString('latin1', 0, 2), 'BZ');
    assert.strictEqual(welcome[3], 2);
    for (let n = 0; n < 100; n++) {
        const nonce = Buffer.alloc(8);
        nonce[0] = n;
        session.write(frame(7, nonce));
        assert.deepStrictEqual(await next(session), frame(8, nonce));
    }
    const ended = new Promise((resolve) => session.once('status', resolve));
    session.on('data', () => assert.fail('nothing more comes'));
    session.end();
    assert.strictEqual((await ended).code, status.OK);
    console.log('a session: welcome, 100 pings answered, OK');

    const stranger = client.sync();
    stranger.write(HELLO);
    await refused('no token', next(stranger), status.UNAUTHENTICATED);
    const given_up = client.sync(metadata);
    given_up.write(HELLO);
    await next(given_up);
    given_up.cancel();
    await refused('a session that was cancelled', next(given_up), status.CANCELLED);
    assert.deepStrictEqual(await unary(client, 'check', Buffer.alloc(0)), SERVING);
    client.close();
}

main().catch((error) => {
    console.error(error);
    process.exit(1);
});
