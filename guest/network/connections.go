package network

import (
	"encoding/binary"
	"errors"
	"net"
	"os"
	"syscall"
)

// sock_diag(7): messages, and struct inet_diag_req_v2 with its struct inet_diag_sockid.
const (
	sockDiagByFamily = 20
	sockDestroy      = 21
	netlinkSockDiag  = 4
	headerSize       = 16
	socketIDSize     = 48
	requestSize      = 8 + socketIDSize
	socketIDAt       = 4 // in struct inet_diag_msg
	// allButListen has a bit for each TCP state in which there is, or was, another end; the numbers are those of the kernel's tcp_states.h.
	allButListen = 1<<1 | 1<<2 | 1<<3 | 1<<4 | 1<<5 | 1<<8 | 1<<9 | 1<<11
)

// ErrNoReset tells that this kernel can't reset the connections of others.
var ErrNoReset = errors.New("this kernel can't reset connections")

// ResetConnections ends every TCP connection to the outside, so that programs are told at once that it is gone. It returns their number.
func ResetConnections() (int, error) {
	if lonely.stillIs() {
		return 0, nil
	}
	return resetConnections(toTheOutside)
}

// LookForConnections is called when programs have come to stand still, and does ResetConnections' work beforehand where there is none: what nobody asks for from the inside can
// only come in from the outside, and then the interface has received something.
func LookForConnections() { lonely.look() }

var lonely = solitude{received: receivedSoFar, connections: func() (int, error) { return countConnections(toTheOutside) }}

// solitude tells whether there was no connection to the outside when it was looked last, and how many packets had been received before that.
type solitude struct {
	received    func() (string, error)
	connections func() (int, error)
	known       bool
	before      string
}

func (s *solitude) look() {
	s.known = false
	before, err := s.received()
	if err != nil {
		return // there is no interface, or nothing is known of it
	}
	found, err := s.connections()
	s.before, s.known = before, err == nil && found == 0
}

func (s *solitude) stillIs() bool {
	if !s.known {
		return false
	}
	now, err := s.received()
	return err == nil && now == s.before
}

// counter stays open, as control does.
var counter = -1

// receivedSoFar is the number of packets that the interface has received.
func receivedSoFar() (string, error) {
	if counter < 0 {
		file, err := syscall.Open("/sys/class/net/"+iface+"/statistics/rx_packets", syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
		if err != nil {
			return "", os.NewSyscallError("open", err)
		}
		counter = file
	}
	var digits [32]byte
	n, err := syscall.Pread(counter, digits[:], 0)
	if err != nil {
		return "", os.NewSyscallError("pread", err)
	}
	return string(digits[:n]), nil
}

// end is one of the two of a connection.
type end struct {
	ip   net.IP
	port uint16
}

func toTheOutside(local, remote end) bool {
	return !local.ip.IsLoopback() && !remote.ip.IsLoopback() && !local.ip.Equal(remote.ip)
}

// diagnosis is the socket that the kernel is asked through; it stays open as control does.
var diagnosis = -1

// prepareReset does beforehand what a fork would do otherwise. What fails here fails again where it matters.
func prepareReset() { _ = openDiagnosis() }

func openDiagnosis() error {
	if diagnosis >= 0 {
		return nil
	}
	fd, err := syscall.Socket(syscall.AF_NETLINK, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC, netlinkSockDiag)
	if err == nil {
		if err = syscall.Bind(fd, &syscall.SockaddrNetlink{Family: syscall.AF_NETLINK}); err != nil {
			syscall.Close(fd)
		}
	}
	if errors.Is(err, syscall.EPROTONOSUPPORT) {
		return ErrNoReset
	}
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	diagnosis = fd
	return nil
}

func resetConnections(wanted func(local, remote end) bool) (int, error) {
	return diagnose(wanted, destroy)
}

func countConnections(wanted func(local, remote end) bool) (int, error) {
	return diagnose(wanted, func(int, byte, []byte, []byte) error { return nil })
}

// act does something with one connection.
type act func(fd int, family byte, id, buffer []byte) error

func diagnose(wanted func(local, remote end) bool, do act) (int, error) {
	if err := openDiagnosis(); err != nil {
		return 0, err
	}
	count, err := doBy(diagnosis, wanted, do)
	if err != nil && !errors.Is(err, ErrNoReset) {
		// What the kernel has still to answer would be taken for the answer to the next question.
		syscall.Close(diagnosis)
		diagnosis = -1
	}
	return count, err
}

func doBy(fd int, wanted func(local, remote end) bool, do act) (int, error) {
	count := 0
	buffer := make([]byte, 4096) // what the kernel packs into one answer for a reader that offers no more
	for _, family := range []byte{syscall.AF_INET, syscall.AF_INET6} {
		ids, err := listSockets(fd, family, buffer)
		if err != nil {
			return count, err
		}
		for _, id := range ids {
			size := net.IPv4len
			if family == syscall.AF_INET6 {
				size = net.IPv6len
			}
			local, remote := end{id[4 : 4+size], binary.BigEndian.Uint16(id)}, end{id[20 : 20+size], binary.BigEndian.Uint16(id[2:])}
			if !wanted(local, remote) {
				continue
			}
			switch err := do(fd, family, id, buffer); {
			case err == nil:
				count++
			case errors.Is(err, syscall.ENOENT): // it has ended by itself
			case errors.Is(err, syscall.EOPNOTSUPP):
				return count, ErrNoReset
			default:
				return count, err
			}
		}
	}
	return count, nil
}

// listSockets returns the socket ids of a family's TCP connections.
func listSockets(fd int, family byte, buffer []byte) ([][]byte, error) {
	if err := send(fd, sockDiagByFamily, syscall.NLM_F_REQUEST|syscall.NLM_F_DUMP, family, make([]byte, socketIDSize)); err != nil {
		return nil, err
	}
	var ids [][]byte
	for {
		messages, err := receive(fd, buffer)
		if err != nil {
			return nil, err
		}
		for _, message := range messages {
			switch message.Header.Type {
			case syscall.NLMSG_DONE:
				return ids, nil
			case syscall.NLMSG_ERROR:
				err := errorOf(message)
				if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.EOPNOTSUPP) {
					return nil, ErrNoReset // no module knows TCP
				}
				return nil, err
			case sockDiagByFamily:
				if len(message.Data) >= socketIDAt+socketIDSize {
					ids = append(ids, append([]byte{}, message.Data[socketIDAt:socketIDAt+socketIDSize]...))
				}
			}
		}
	}
}

func destroy(fd int, family byte, id, buffer []byte) error {
	if err := send(fd, sockDestroy, syscall.NLM_F_REQUEST|syscall.NLM_F_ACK, family, id); err != nil {
		return err
	}
	messages, err := receive(fd, buffer)
	if err != nil {
		return err
	}
	for _, message := range messages {
		if message.Header.Type == syscall.NLMSG_ERROR {
			return errorOf(message)
		}
	}
	return nil
}

func send(fd int, kind, flags uint16, family byte, id []byte) error {
	message := make([]byte, headerSize+requestSize)
	binary.LittleEndian.PutUint32(message, uint32(len(message)))
	binary.LittleEndian.PutUint16(message[4:], kind)
	binary.LittleEndian.PutUint16(message[6:], flags)
	message[headerSize] = family
	message[headerSize+1] = syscall.IPPROTO_TCP
	binary.LittleEndian.PutUint32(message[headerSize+4:], allButListen)
	copy(message[headerSize+8:], id)
	return os.NewSyscallError("sendto", syscall.Sendto(fd, message, 0, &syscall.SockaddrNetlink{Family: syscall.AF_NETLINK}))
}

// receive returns messages that lie in the buffer until it is used again.
func receive(fd int, buffer []byte) ([]syscall.NetlinkMessage, error) {
	n, _, err := syscall.Recvfrom(fd, buffer, 0)
	if err != nil {
		return nil, os.NewSyscallError("recvfrom", err)
	}
	return syscall.ParseNetlinkMessage(buffer[:n])
}

// errorOf is the error of a struct nlmsgerr; nil if it is an acknowledgement.
func errorOf(message syscall.NetlinkMessage) error {
	if len(message.Data) < 4 {
		return errors.New("netlink: a short error")
	}
	if number := int32(binary.LittleEndian.Uint32(message.Data)); number != 0 {
		return os.NewSyscallError("sock_diag", syscall.Errno(-number))
	}
	return nil
}
