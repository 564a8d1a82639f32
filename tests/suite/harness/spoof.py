# Sends frames from a container's network namespace, and says which of them came out where they should not: on the host's
# bridge, or at the neighbour's interface. For neighbours.rs. It stays in the host's mount namespace: only its sockets are
# in the others.
#
# spoof.py BRIDGE ATTACKER_PID VICTIM_PID ATTACKER_IP VICTIM_IP GATEWAY_IP GATEWAY_MAC NAME...
import ctypes, os, socket, struct, sys, time

bridge, attacker, victim = sys.argv[1], sys.argv[2], sys.argv[3]
ip, other_ip, gateway_ip = map(socket.inet_aton, sys.argv[4:7])
gateway = bytes.fromhex(sys.argv[7].replace(":", ""))
names = sys.argv[8:]
mac, other = b"\x02\x51" + ip, b"\x02\x51" + other_ip
all_of_them = b"\xff" * 6


def opened(pid, name):
    """A packet socket on an interface of a process's network namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    own = os.open("/proc/self/ns/net", os.O_RDONLY)
    if pid:
        there = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
        if libc.setns(there, 0x40000000) != 0:
            raise OSError(ctypes.get_errno(), "setns")
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    s.bind((name, 0))
    libc.setns(own, 0x40000000)
    return s


def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def packet(source, to, payload, port=9):
    udp = struct.pack("!HHHH", 4000, port, 8 + len(payload), 0) + payload
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0, source, to)
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + udp


def frame(to, source, kind, payload):
    return to + source + struct.pack("!H", kind) + payload


def arp(op, sender, sender_ip, target, target_ip):
    return struct.pack("!HHBBH6s4s6s4s", 1, 0x800, 6, 4, op, sender, sender_ip, target, target_ip)


def advertisement(mark):
    """A router advertisement (RFC 4861) with a lifetime and a prefix, from the link-local address of the MAC address, and
    with an option of no known kind."""
    source = b"\xfe\x80" + bytes(6) + bytes([mac[0] ^ 2]) + mac[1:3] + b"\xff\xfe" + mac[3:]
    to = b"\xff\x02" + bytes(13) + b"\x01"
    prefix = struct.pack("!BBBBIII16s", 3, 4, 64, 0xC0, 1800, 1800, 0, b"\x20\x01\x0d\xb8" + bytes(12))
    body = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0) + b"\x01\x01" + mac + prefix + b"\xfd\x04" + mark.ljust(30, b"\0")
    pseudo = source + to + struct.pack("!IBBBB", len(body), 0, 0, 0, 58)
    body = body[:2] + struct.pack("!H", checksum(pseudo + body)) + body[4:]
    return struct.pack("!IHBB", 6 << 28, len(body), 58, 255) + source + to + body


def made(name):
    mark = b"<" + name.encode() + b">"
    udp = lambda source, to=gateway_ip: packet(source, to, mark)
    frames = {
        # Somebody else's name.
        "mac-of-neighbour": lambda: frame(gateway, other, 0x800, udp(ip)),
        "mac-of-gateway": lambda: frame(all_of_them, gateway, 0x800, udp(ip)),
        "mac-of-nobody": lambda: frame(gateway, b"\x02\x00\x00\x00\x00\x07", 0x800, udp(ip)),
        "ip-of-neighbour": lambda: frame(gateway, mac, 0x800, udp(other_ip)),
        "ip-of-gateway": lambda: frame(gateway, mac, 0x800, udp(gateway_ip)),
        "ip-of-loopback": lambda: frame(gateway, mac, 0x800, udp(bytes([127, 0, 0, 1]))),
        "ip-of-nobody": lambda: frame(gateway, mac, 0x800, udp(bytes([192, 0, 2, 99]))),
        "both-of-neighbour": lambda: frame(gateway, other, 0x800, udp(other_ip)),
        "arp-claims-neighbour": lambda: frame(gateway, mac, 0x806, arp(2, mac, other_ip, gateway, gateway_ip) + mark),
        "arp-claims-gateway": lambda: frame(all_of_them, mac, 0x806, arp(1, mac, gateway_ip, bytes(6), gateway_ip) + mark),
        "arp-moves-neighbour": lambda: frame(gateway, mac, 0x806, arp(2, other, ip, gateway, gateway_ip) + mark),
        "arp-as-neighbour": lambda: frame(gateway, other, 0x806, arp(2, mac, ip, gateway, gateway_ip) + mark),
        # Other protocols than IPv4 and ARP.
        "ipv6-advertisement": lambda: frame(b"\x33\x33\0\0\0\1", mac, 0x86DD, advertisement(mark)),
        "vlan": lambda: frame(gateway, mac, 0x8100, b"\0\x05\x08\0" + udp(ip)),
        "vlan-0": lambda: frame(gateway, mac, 0x8100, b"\0\0\x08\0" + udp(ip)),
        "ethertype-other": lambda: frame(gateway, mac, 0x88B5, mark * 4),
        "802.3": lambda: frame(gateway, mac, 60, mark * 4),
        "to-many": lambda: frame(b"\1\0\x5e\0\0\xfb", mac, 0x800, udp(ip, bytes([224, 0, 0, 251]))),
        # A truthful sender.
        "to-neighbour": lambda: frame(other, mac, 0x800, udp(ip, other_ip)),
        "arp-to-neighbour": lambda: frame(all_of_them, mac, 0x806, arp(1, mac, ip, bytes(6), other_ip) + mark),
        "arp-poisons-neighbour": lambda: frame(other, mac, 0x806, arp(2, mac, gateway_ip, other, other_ip) + mark),
    }
    return mark, frames[name]()


ears = {"host": opened(None, bridge), "neighbour": opened(victim, "eth0")}
mouth = opened(attacker, "eth0")
marks = {}
for name in names:
    marks[name], bytes_of_it = made(name)
    # As a cable would: nothing shorter. Three times, for one may be lost.
    for _ in range(3):
        mouth.send(bytes_of_it.ljust(60, b"\0"))
# What is allowed comes last, and shows that the ears hear.
mouth.send(frame(gateway, mac, 0x800, packet(ip, gateway_ip, b"<end>")))
own = opened(None, bridge)
own.send(frame(all_of_them, gateway, 0x800, packet(gateway_ip, other_ip, b"<end>")))
for where, ear in ears.items():
    ear.settimeout(10)
    heard = b""
    while b"<end>" not in heard:
        heard += ear.recv(2048)
    for name in names:
        if marks[name] in heard:
            print(f"{name} at {where}")
