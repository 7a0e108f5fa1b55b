import NIOCore

/// multistream-select 1.0 for either side, without I/O.
///
/// States: header expected -> answers or proposals expected -> agreed or failed. The initiator sends the header with its first
/// proposal, without waiting for the other header; the responder answers all that one read has brought with one write. What
/// follows the agreed line stays in the input. A responder that nothing is proposed to may become the initiator.
struct MultistreamStateMachine {
    enum Role {
        /// Proposes these names, in this order.
        case initiator([String])
        /// Takes the first name that `supports` likes.
        case responder(supports: (String) -> Bool, list: () -> [String])
    }

    enum Outcome: Equatable {
        /// The input has no whole line left.
        case needsMore
        case agreed(String)
    }

    /// The most proposals that a responder answers.
    static let maximumProposals = 32

    private(set) var role: Role
    private var headerReceived = false
    private var proposals = 0

    init(role: Role) {
        self.role = role
    }

    /// What the initiator sends first. A responder sends nothing yet.
    func start(to output: inout ByteBuffer) {
        guard case .initiator(let names) = self.role, let first = names.first else { return }
        MultistreamFraming.write(MultistreamFraming.header, to: &output)
        MultistreamFraming.write(first, to: &output)
    }

    /// Makes a responder the initiator: nothing has been proposed to it, so the peer seems to wait for proposals as well. False,
    /// and nothing is to be sent, if the peer has proposed something.
    mutating func takeInitiative(with names: [String], output: inout ByteBuffer) -> Bool {
        guard case .responder = self.role, self.proposals == 0, let first = names.first else { return false }
        self.role = .initiator(names)
        // The answer to the peer's header was this side's own.
        if !self.headerReceived { MultistreamFraming.write(MultistreamFraming.header, to: &output) }
        MultistreamFraming.write(first, to: &output)
        return true
    }

    /// Reads lines until the protocol is agreed upon or more bytes are needed; answers go to `output`, which is to be sent
    /// even if an error is thrown.
    mutating func receive(
        _ input: inout ByteBuffer,
        output: inout ByteBuffer
    ) throws(LibP2PError) -> Outcome {
        // Other bytes are told at once, and not waited for as for the rest of a long line.
        guard self.headerReceived || MultistreamFraming.mayBeHeader(input) else {
            throw LibP2PError(code: .malformed, message: "the peer does not speak multistream-select")
        }
        while let line = try MultistreamFraming.readLine(from: &input) {
            guard self.headerReceived else {
                guard line == MultistreamFraming.header else {
                    throw LibP2PError(code: .malformed, message: "the peer does not speak multistream-select 1.0")
                }
                self.headerReceived = true
                if case .responder = self.role { MultistreamFraming.write(line, to: &output) }
                continue
            }
            switch self.role {
            case .initiator(let names):
                if let agreed = try self.receiveAnswer(line, names: names, output: &output) { return .agreed(agreed) }
            case .responder(let supports, let list):
                if line == MultistreamFraming.list {
                    try self.countProposal()
                    MultistreamFraming.writeList(list(), to: &output)
                } else if supports(line) {
                    MultistreamFraming.write(line, to: &output)
                    return .agreed(line)
                } else {
                    try self.countProposal()
                    MultistreamFraming.write(MultistreamFraming.notAvailable, to: &output)
                }
            }
        }
        return .needsMore
    }

    private mutating func receiveAnswer(
        _ line: String,
        names: [String],
        output: inout ByteBuffer
    ) throws(LibP2PError) -> String? {
        guard self.proposals < names.count else {
            throw LibP2PError(code: .malformed, message: "the peer answers a proposal that was not made")
        }
        if line == names[self.proposals] { return line }
        guard line == MultistreamFraming.notAvailable else {
            throw LibP2PError(
                code: .malformed,
                message: "the peer answers neither with the proposal nor with a refusal"
            )
        }
        self.proposals += 1
        guard self.proposals < names.count else {
            throw LibP2PError(
                code: .protocolNotSupported,
                message: "the peer has none of the protocols \(names.joined(separator: ", "))"
            )
        }
        MultistreamFraming.write(names[self.proposals], to: &output)
        return nil
    }

    private mutating func countProposal() throws(LibP2PError) {
        self.proposals += 1
        guard self.proposals <= Self.maximumProposals else {
            throw LibP2PError(
                code: .protocolNotSupported,
                message: "the peer has proposed \(Self.maximumProposals) protocols that this host does not have"
            )
        }
    }
}
