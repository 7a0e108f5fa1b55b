import MeshCore
import Testing

@Suite("xxHash64")
struct XXHash64Tests {
    @Test(
        "texts hash as the reference implementation has it",
        arguments: [
            ("", 0xef46_db37_51d8_e999, 0x6ec6_d05f_61c7_e7a7),
            ("a", 0xd24e_c4f1_a98c_6e5b, 0x727c_10e0_d238_e188),
            ("abc", 0x44bc_2cf5_ad77_0999, 0xa7cb_2aac_405e_36c7),
            ("message digest", 0x066e_d728_fcee_b3be, 0xd35e_8898_f3fb_053b),
            ("0123456789abcdef", 0x5c5b_90c3_4e37_6d0b, 0xb887_93e9_2567_83a6),
            ("abcdefghijklmnopqrstuvwxyz", 0xcfe1_f278_fa89_835c, 0x45af_4d06_f721_14d8),
            (
                "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789", 0xaaa4_6907_d304_7814,
                0x2bcc_828d_e376_2235
            ),
        ] as [(String, UInt64, UInt64)]
    )
    func texts(text: String, unseeded: UInt64, seeded: UInt64) {
        #expect(XXHash64.hash(text) == unseeded)
        #expect(XXHash64.hash(Array(text.utf8)) == unseeded)
        #expect(XXHash64.hash(text, seed: 0x9E37_79B1_85EB_CA87) == seeded)
    }

    /// Every remainder of the 32-, 8-, 4- and 1-byte steps.
    @Test(
        "byte counts around the steps of the algorithm",
        arguments: [
            (1, 0x1f25_c8d0_bc1f_4bb6), (2, 0xf5be_dec2_3270_6303), (3, 0x31d2_363f_52e5_64c9),
            (4, 0x9bb6_4b7d_66ee_9fda), (5, 0xc760_8efd_db70_51fe), (7, 0x9a7b_1499_59ce_60d8),
            (8, 0xdab9_9d95_c6f9_0092), (9, 0x170b_b6bf_975b_4c02), (12, 0xd52e_4078_33af_5133),
            (15, 0x1b47_cb82_43cc_8e32), (16, 0x4348_5023_2b78_7be2), (31, 0xa2aa_5f33_cc4a_6119),
            (32, 0x23c3_c17e_f790_fd97), (33, 0x50a7_cfc7_ba58_8784), (63, 0x5e3e_54b4_31c7_493c),
            (64, 0x0eb6_4b3e_f6ee_b01f), (65, 0xa383_b724_b2bd_12f1), (100, 0xa61f_8d4c_170f_e531),
        ] as [(Int, UInt64)]
    )
    func byteCounts(count: Int, expected: UInt64) {
        let bytes = (0..<count).map { UInt8(truncatingIfNeeded: $0 * 7 + 3) }
        #expect(XXHash64.hash(bytes) == expected)
    }

    @Test("addresses hash by their bytes in network order")
    func addresses() throws {
        let v4 = try #require(IPAddress("10.0.0.1"))
        let v6 = try #require(IPAddress("2001:db8::7"))
        #expect(v4.stableHash() == 0x4956_3b50_83b9_9aff)
        #expect(v4.stableHash() == XXHash64.hash(v4.networkBytes))
        #expect(v6.stableHash(seed: 9) == XXHash64.hash(v6.networkBytes, seed: 9))
        #expect(TransportAddress(v4, 8080).stableHash(seed: 5) == 0x7c0f_c60b_fccd_6063)
    }
}
