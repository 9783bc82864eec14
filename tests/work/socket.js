// Sends a message twenty times, each when the last has come back, and says whether it did.
// usage: node socket.js URL
const socket = new WebSocket(process.argv[2]);
socket.binaryType = "arraybuffer";
const message = new Uint8Array(1e6).map((_, place) => (place * 7919) >> 3);
let left = 20;
socket.onopen = () => socket.send(message);
socket.onmessage = (event) => {
  if (Buffer.compare(Buffer.from(event.data), Buffer.from(message)) !== 0) {
    console.log("another message came");
    process.exit(1);
  }
  if (--left > 0) return socket.send(message);
  console.log("the echoes came");
  process.exit(0);
};
socket.onerror = () => {
  console.log("no WebSocket");
  process.exit(1);
};
