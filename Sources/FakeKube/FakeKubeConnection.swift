import Documents
import Glibc
import MeshCore
import NIOCore
import NIOHTTP1
import Synchronization

/// Serves the requests of one client connection, one after the other.
struct FakeKubeConnection {
    typealias Client = NIOAsyncChannel<HTTPServerRequestPart, HTTPServerResponsePart>

    /// The connection is to be closed as the fault or the test wants it.
    private struct Disconnected: Error {}

    private let fake: FakeKube
    private let number: Int

    init(_ fake: FakeKube, number: Int) {
        self.fake = fake
        self.number = number
    }

    @concurrent
    func serve(_ client: Client) async throws {
        try await client.executeThenClose { inbound, outbound in
            var request: (head: HTTPRequestHead, body: [UInt8])?
            for try await part in inbound {
                switch part {
                case .head(let head):
                    request = (head, [])
                    continue
                case .body(let bytes):
                    request?.body += bytes.readableBytesView
                    continue
                case .end: break
                }
                guard let (head, body) = request else { continue }
                var answer = Answer(outbound: outbound)
                try await self.answer(head, body, with: &answer, on: client.channel)
                guard head.isKeepAlive, !answer.closesAfter else { return }
            }
        }
    }

    @concurrent
    private func answer(
        _ head: HTTPRequestHead,
        _ body: [UInt8],
        with answer: inout Answer,
        on channel: any Channel
    ) async throws {
        var request = Self.parse(head, connection: self.number)
        let place = FakePlace(request.path)
        request.plural = place?.plural ?? ""
        let logged = request
        let (effect, refusal): (FakeKubeFault.Effect?, (Int, String)?) = self.fake.state.withLock { state in
            if state.requests.count < self.fake.options.logLimit { state.requests.append(logged) }
            var effect: FakeKubeFault.Effect?
            if let index = state.faults.firstIndex(where: { $0.hits(logged) }) {
                effect = state.faults[index].effect
                state.faults[index].times -= 1
                if state.faults[index].times <= 0 { state.faults.remove(at: index) }
            }
            if let accepted = state.authorizations, !accepted.contains(logged.authorization ?? "") {
                return (effect, (401, "Unauthorized"))
            }
            guard let place else { return (effect, nil) }
            if state.absent.contains(place.plural) || state.absent.contains("\(place.version)/\(place.plural)") {
                return (effect, (404, "the server could not find the requested resource"))
            }
            if state.forbidden.contains(place.plural) {
                let verb =
                    logged.method == "PATCH" ? "patch" : logged.isWatch ? "watch" : place.name == nil ? "list" : "get"
                return (effect, (403, "\(place.plural) is forbidden: User \"fake\" cannot \(verb) resource"))
            }
            return (effect, nil)
        }
        switch effect {
        case .disconnect:
            throw Disconnected()
        case .status(let code, let retryAfter):
            return try await answer.fail(code, "made to fail", retryAfter: retryAfter)
        case .expired:
            return try await answer.expired()
        case .body(let bytes):
            return try await answer.send(bytes)
        case .closeAfter:
            answer.closesAfter = true
        case .truncate(let bytes):
            answer.bytesUntilCut = bytes
        case .drip(let bytes, let pause):
            answer.drip = (bytes, pause)
        case nil:
            break
        }
        if let (code, message) = refusal { return try await answer.fail(code, message) }
        guard let place else { return try await self.answerOther(request, body, with: &answer) }
        if request.method == "PATCH" {
            return try await self.patch(
                place,
                body,
                contentType: head.headers.first(name: "Content-Type"),
                with: &answer
            )
        }
        guard place.name == nil else { return try await self.get(place, with: &answer) }
        if request.isWatch {
            try await self.watch(request, place, with: &answer, on: channel)
        } else {
            try await self.list(request, place, with: &answer)
        }
    }

    @concurrent
    private func answerOther(_ request: FakeKubeRequest, _ body: [UInt8], with answer: inout Answer) async throws {
        switch request.path {
        case "/version":
            let version: Document = [
                "major": "1", "minor": "31", "gitVersion": .string(self.fake.options.gitVersion),
                "platform": "linux/amd64",
            ]
            try await answer.send(version.jsonBytes())
        case "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews" where request.method == "POST":
            let wanted = (try? Document.parseJSON(body))?["spec"]?["resourceAttributes"]
            let parts = ["resource", "subresource"].compactMap { wanted?[$0]?.string }
            let isForbidden = self.fake.state.withLock { $0.forbidden.contains(parts.joined(separator: "/")) }
            try await answer.send(
                Document.object([.init("status", ["allowed": .init(.bool(!isForbidden))])]).jsonBytes()
            )
        case "/healthz", "/livez", "/readyz":
            try await answer.send(Array("ok".utf8))
        default:
            try await answer.fail(404, "the server could not find the requested resource")
        }
    }

    @concurrent
    private func get(_ place: FakePlace, with answer: inout Answer) async throws {
        let key = "\(place.namespace ?? "")/\(place.name ?? "")"
        guard let object = self.fake.state.withLock({ $0.store.object(place.plural, key: key) }) else {
            return try await answer.fail(404, "\(place.plural) \"\(place.name ?? "")\" not found")
        }
        try await answer.send(object)
    }

    /// A merge patch (RFC 7386), the one kind that is known here. One of the status changes nothing else, and one that names a
    /// version is refused if the object has another.
    @concurrent
    private func patch(
        _ place: FakePlace,
        _ body: [UInt8],
        contentType: String?,
        with answer: inout Answer
    ) async throws {
        let key = "\(place.namespace ?? "")/\(place.name ?? "")"
        guard contentType == "application/merge-patch+json", let patch = try? Document.parseJSON(body) else {
            return try await answer.fail(415, "the body of the request was in an unknown format")
        }
        guard let stored = self.fake.state.withLock({ $0.store.object(place.plural, key: key) }),
            let object = try? Document.parseJSON(stored)
        else { return try await answer.fail(404, "\(place.plural) \"\(place.name ?? "")\" not found") }
        if let version = patch["metadata"]?["resourceVersion"]?.string, version != object.resourceVersion {
            return try await answer.fail(409, "the object has been modified", reason: "Conflict")
        }
        self.fake.apply(place.isStatus ? object.merging(["status": patch["status"] ?? [:]]) : object.merging(patch))
        try await self.get(place, with: &answer)
    }

    @concurrent
    private func list(_ request: FakeKubeRequest, _ place: FakePlace, with answer: inout Answer) async throws {
        let version = request.query["resourceVersion"]
        var limit = request.query["limit"].flatMap(Int.init).flatMap { $0 > 0 ? $0 : nil }
        // A list at any version comes whole out of the server's watch cache, before Kubernetes 1.33 or so.
        if version == "0", self.fake.options.listsVersionZeroWhole { limit = nil }
        let token = request.query["continue"]
        guard token == nil || version == nil else {
            return try await answer.fail(400, "specifying resource version is not allowed when using continue")
        }
        if let match = request.query["resourceVersionMatch"] {
            guard let version, token == nil, match == "NotOlderThan" || match == "Exact" && version != "0" else {
                let message = "resourceVersionMatch is forbidden for continue, and without a fitting resourceVersion"
                return try await answer.fail(400, message, reason: "BadRequest")
            }
        }
        let page: FakeKubeStore.Page? = self.fake.state.withLock { state in
            if state.hidden.contains(place.plural) {
                return .init(items: [], version: state.store.version, continueToken: nil, remaining: 0)
            }
            if let token { return state.store.list(continueToken: token, limit: limit) }
            let selector = request.query["fieldSelector"]
            return state.store.list(place.plural, limit: limit) { place.holds($0, selector) }
        }
        guard let page else {
            return try await answer.expired()
        }
        var metadata: [Document.Member] = [.init("resourceVersion", .string("\(page.version)"))]
        if let token = page.continueToken {
            metadata.append(.init("continue", .string(token)))
            metadata.append(.init("remainingItemCount", .integer(page.remaining)))
        }
        var items = Array("\"items\":[".utf8)
        for (index, item) in page.items.enumerated() {
            if index > 0 { items.append(UInt8(ascii: ",")) }
            items += request.asksForMetadata ? Self.metadata(of: item) : item
        }
        items.append(UInt8(ascii: "]"))
        let describedBy = Array("\"metadata\":".utf8) + Document.object(metadata).jsonBytes()
        let comma = [UInt8(ascii: ",")]
        let body: [UInt8]
        let (kind, apiVersion) = place.type
        if place.collection.isBuiltIn {
            body = Array(#"{"kind":"\#(kind)List","apiVersion":"\#(apiVersion)","#.utf8) + describedBy + comma + items
        } else {
            // Lists of custom resources have their keys in alphabetical order, so what they say of themselves comes last.
            body =
                Array(#"{"apiVersion":"\#(apiVersion)","#.utf8) + items + Array(#","kind":"\#(kind)List","#.utf8)
                + describedBy
        }
        try await answer.send(body + Array("}\n".utf8))
    }

    @concurrent
    private func watch(
        _ request: FakeKubeRequest,
        _ place: FakePlace,
        with answer: inout Answer,
        on channel: any Channel
    ) async throws {
        let (wakes, wake) = AsyncStream.makeStream(of: Void.self, bufferingPolicy: .bufferingNewest(1))
        var cursor = request.query["resourceVersion"].flatMap(UInt64.init) ?? 0
        let fromNow = cursor == 0
        let (id, first, isTooOld): (Int, [FakeKubeStore.Event], Bool) = self.fake.state.withLock { state in
            let id = state.nextWatch
            state.nextWatch += 1
            state.watches[id] = FakeKube.Watch(wake: wake, plural: place.plural)
            guard fromNow else {
                let isTooOld =
                    if case .tooOld = state.store.events(of: place.plural, after: cursor) { true } else { false }
                return (id, [], isTooOld)
            }
            cursor = state.store.version
            return (id, state.store.asEvents(place.plural), false)
        }
        let lifetime = min(request.query["timeoutSeconds"].flatMap(Int64.init) ?? 300, 3600)
        let deadline = MonotonicTime.now() + .seconds(lifetime)
        let end = channel.eventLoop.scheduleTask(in: .seconds(lifetime)) { wake.yield() }
        let interval = TimeAmount.nanoseconds(self.fake.options.bookmarkInterval.saturatedNanoseconds)
        let fake = self.fake
        let bookmarks = channel.eventLoop.scheduleRepeatedTask(initialDelay: interval, delay: interval) { _ in
            fake.state.withLock { $0.watches[id]?.order = .sendBookmark }
            wake.yield()
        }
        channel.closeFuture.whenComplete { _ in wake.finish() }
        defer {
            end.cancel()
            bookmarks.cancel()
            self.fake.state.withLock { $0.watches[id] = nil }
        }
        if isTooOld { return try await answer.fail(410, "too old resource version", reason: "Expired") }
        let selector = request.query["fieldSelector"]
        try await answer.begin()
        try await answer.events(Self.shown(first.filter { place.holds($0.key, selector) }, to: request))
        var iterator = wakes.makeAsyncIterator()
        repeat {
            let (events, order) = self.fake.state.withLock { state in
                defer { state.watches[id]?.order = .goOn }
                return (state.store.events(of: place.plural, after: cursor), state.watches[id]?.order)
            }
            switch events {
            case .events(let events) where order != .disconnect:
                try await answer.events(Self.shown(events.filter { place.holds($0.key, selector) }, to: request))
                cursor = events.last?.version ?? cursor
            case .events: break
            case .tooOld:
                try await answer.gone()
                return try await answer.end()
            }
            switch order {
            case .disconnect:
                throw Disconnected()
            case .sendGone:
                try await answer.gone()
                return try await answer.end()
            case .sendBookmark:
                cursor = self.fake.state.withLock { max(cursor, $0.store.version(of: place.plural, seen: cursor)) }
                try await answer.bookmark(version: cursor, of: place.collection.isBuiltIn ? place.type : nil)
            case .goOn, nil:
                break
            }
            if MonotonicTime.now() >= deadline { return try await answer.end() }
        } while await iterator.next() != nil
    }
}

extension FakeKubeConnection {
    private static func shown(_ events: [FakeKubeStore.Event], to request: FakeKubeRequest) -> [FakeKubeStore.Event] {
        guard request.asksForMetadata else { return events }
        return events.map { event in
            var event = event
            event.json = Self.metadata(of: event.json)
            return event
        }
    }

    /// An object as `PartialObjectMetadata`.
    private static func metadata(of json: [UInt8]) -> [UInt8] {
        let metadata = (try? Document.parseJSON(json))?["metadata"] ?? [:]
        let object: Document = [
            "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
        ]
        return object.jsonBytes()
    }

    private static func parse(_ head: HTTPRequestHead, connection: Int) -> FakeKubeRequest {
        let halves = head.uri.split(separator: "?", maxSplits: 1)
        var query: [String: String] = [:]
        for pair in halves.count == 2 ? halves[1].split(separator: "&") : [] {
            let sides = pair.split(separator: "=", maxSplits: 1)
            query[String(sides[0])] = Self.percentDecode(sides.count == 2 ? sides[1] : "")
        }
        return FakeKubeRequest(
            method: head.method.rawValue,
            path: String(halves.first ?? ""),
            query: query,
            authorization: head.headers.first(name: "Authorization"),
            userAgent: head.headers.first(name: "User-Agent"),
            accept: head.headers.first(name: "Accept"),
            acceptEncoding: head.headers.first(name: "Accept-Encoding"),
            connection: connection
        )
    }

    private static func percentDecode(_ text: Substring) -> String {
        var bytes: [UInt8] = []
        var rest = Array(text.utf8)[...]
        while let byte = rest.popFirst() {
            if byte == UInt8(ascii: "%"), rest.count >= 2,
                let value = UInt8(String(decoding: rest.prefix(2), as: UTF8.self), radix: 16)
            {
                bytes.append(value)
                rest = rest.dropFirst(2)
            } else {
                bytes.append(byte)
            }
        }
        return String(decoding: bytes, as: UTF8.self)
    }
}

extension Document {
    fileprivate var resourceVersion: String? { self["metadata"]?["resourceVersion"]?.string }

    /// RFC 7386 section 2.
    fileprivate func merging(_ patch: Document) -> Document {
        guard let changes = patch.members else { return patch }
        var members = self.members ?? []
        for change in changes {
            let index = members.firstIndex { $0.key == change.key }
            if change.value.isNull {
                if let index { members.remove(at: index) }
            } else if let index {
                members[index] = .init(change.key, members[index].value.merging(change.value))
            } else {
                members.append(.init(change.key, change.value))
            }
        }
        return .object(members)
    }
}

/// One answer being written, with the faults that befall it.
private struct Answer {
    /// Thrown to close the connection in the middle of a body.
    struct Cut: Error {}

    let outbound: NIOAsyncChannelOutboundWriter<HTTPServerResponsePart>
    var closesAfter = false
    var bytesUntilCut: Int?
    var drip: (bytes: Int, pause: Duration)?

    init(outbound: NIOAsyncChannelOutboundWriter<HTTPServerResponsePart>) {
        self.outbound = outbound
    }

    @concurrent
    mutating func fail(
        _ code: Int,
        _ message: String,
        reason: String = "",
        retryAfter: Int? = nil,
        continueToken: String? = nil
    ) async throws {
        let metadata = continueToken.map { Document.object([.init("continue", .string($0))]) } ?? [:]
        let status: Document = [
            "kind": "Status", "apiVersion": "v1", "metadata": metadata, "status": "Failure",
            "message": .string(message),
            "reason": .string(reason), "code": .integer(code),
        ]
        try await self.begin(code, retryAfter: retryAfter)
        try await self.write(status.jsonBytes())
        try await self.end()
    }

    /// With a token for the rest as it is now, which together with the pages before is no consistent list.
    @concurrent
    mutating func expired() async throws {
        let message =
            "The provided continue parameter is too old to display a consistent list result. You can start a new list "
            + "without the continue parameter, or use the continue token in this response"
        try await self.fail(410, message, reason: "Expired", continueToken: FakeKube.inconsistentToken)
    }

    @concurrent
    mutating func send(_ body: [UInt8]) async throws {
        try await self.begin()
        try await self.write(body)
        try await self.end()
    }

    @concurrent
    func begin(_ code: Int = 200, retryAfter: Int? = nil) async throws {
        var headers: HTTPHeaders = [
            "Content-Type": "application/json", "Transfer-Encoding": "chunked", "Date": Self.date(),
        ]
        if let retryAfter { headers.add(name: "Retry-After", value: "\(retryAfter)") }
        try await self.outbound.write(
            .head(.init(version: .http1_1, status: .init(statusCode: code), headers: headers))
        )
    }

    @concurrent
    func end() async throws {
        try await self.outbound.write(.end(nil))
    }

    @concurrent
    mutating func events(_ events: [FakeKubeStore.Event]) async throws {
        guard !events.isEmpty else { return }
        var lines: [UInt8] = []
        for event in events {
            lines += Array(#"{"type":"\#(event.type)","object":"#.utf8) + event.json + Array("}\n".utf8)
        }
        try await self.write(lines)
    }

    @concurrent
    mutating func gone() async throws {
        let line =
            #"{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","#
            + #""message":"too old resource version","reason":"Expired","code":410}}"# + "\n"
        try await self.write(Array(line.utf8))
    }

    @concurrent
    mutating func bookmark(version: UInt64, of type: (kind: String, version: String)?) async throws {
        let type = type ?? ("DestinationRule", "networking.istio.io/v1")
        let line =
            #"{"type":"BOOKMARK","object":{"kind":"\#(type.kind)","apiVersion":"\#(type.version)","#
            + #""metadata":{"resourceVersion":"\#(version)","creationTimestamp":null},"spec":{}}}"# + "\n"
        try await self.write(Array(line.utf8))
    }

    @concurrent
    private mutating func write(_ bytes: [UInt8]) async throws {
        var rest = bytes[...]
        if let left = self.bytesUntilCut {
            rest = rest.prefix(left)
            self.bytesUntilCut = left - rest.count
        }
        while !rest.isEmpty {
            let piece = rest.prefix(self.drip?.bytes ?? 64 << 10)
            rest = rest.dropFirst(piece.count)
            try await self.outbound.write(.body(.byteBuffer(ByteBuffer(bytes: piece))))
            if let pause = self.drip?.pause { try await Task.sleep(for: pause) }
        }
        if self.bytesUntilCut == 0 { throw Cut() }
    }

    private static func date() -> String {
        var now = time(nil)
        var parts = tm()
        gmtime_r(&now, &parts)
        var text = [CChar](repeating: 0, count: 40)
        let length = strftime(&text, text.count, "%a, %d %b %Y %H:%M:%S GMT", &parts)
        return String(decoding: text.prefix(length).map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }
}
