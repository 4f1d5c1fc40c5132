"""Every currency and country that Stripe may name, so that no object is refused for where it comes from.

What the simulation deals in stands in `oltp.reference`, with rates; this is the rest of the world, without.
"""

from __future__ import annotations

from stripe_platform.money import THREE_DECIMAL, exponent
from stripe_platform.oltp.reference import COUNTRIES, CURRENCIES

_CURRENCIES = """
    aed United Arab Emirates Dirham; afn Afghan Afghani; all Albanian Lek; amd Armenian Dram;
    ang Netherlands Antillean Guilder; aoa Angolan Kwanza; ars Argentine Peso; aud Australian Dollar;
    awg Aruban Florin; azn Azerbaijani Manat; bam Bosnia-Herzegovina Convertible Mark; bbd Barbadian Dollar;
    bdt Bangladeshi Taka; bgn Bulgarian Lev; bhd Bahraini Dinar; bif Burundian Franc; bmd Bermudan Dollar;
    bnd Brunei Dollar; bob Bolivian Boliviano; brl Brazilian Real; bsd Bahamian Dollar; btn Bhutanese Ngultrum;
    bwp Botswanan Pula; byn Belarusian Ruble; byr Belarusian Ruble (20002016); bzd Belize Dollar;
    cad Canadian Dollar; cdf Congolese Franc; chf Swiss Franc; clp Chilean Peso; cny Chinese Yuan;
    cop Colombian Peso; crc Costa Rican Colon; cuc Cuban Convertible Peso; cup Cuban Peso; cve Cape Verdean Escudo;
    czk Czech Koruna; djf Djiboutian Franc; dkk Danish Krone; dop Dominican Peso; dzd Algerian Dinar;
    eek Estonian Kroon; egp Egyptian Pound; ern Eritrean Nakfa; etb Ethiopian Birr; eur Euro; fjd Fijian Dollar;
    fkp Falkland Islands Pound; gbp British Pound; gel Georgian Lari; ghs Ghanaian Cedi; gip Gibraltar Pound;
    gmd Gambian Dalasi; gnf Guinean Franc; gtq Guatemalan Quetzal; gyd Guyanaese Dollar; hkd Hong Kong Dollar;
    hnl Honduran Lempira; hrk Croatian Kuna; htg Haitian Gourde; huf Hungarian Forint; idr Indonesian Rupiah;
    ils Israeli New Shekel; inr Indian Rupee; iqd Iraqi Dinar; irr Iranian Rial; isk Icelandic Krona;
    jmd Jamaican Dollar; jod Jordanian Dinar; jpy Japanese Yen; kes Kenyan Shilling; kgs Kyrgystani Som;
    khr Cambodian Riel; kmf Comorian Franc; kpw North Korean Won; krw South Korean Won; kwd Kuwaiti Dinar;
    kyd Cayman Islands Dollar; kzt Kazakhstani Tenge; lak Laotian Kip; lbp Lebanese Pound; lkr Sri Lankan Rupee;
    lrd Liberian Dollar; lsl Lesotho Loti; ltl Lithuanian Litas; lvl Latvian Lats; lyd Libyan Dinar;
    mad Moroccan Dirham; mdl Moldovan Leu; mga Malagasy Ariary; mkd Macedonian Denar; mmk Myanmar Kyat;
    mnt Mongolian Tugrik; mop Macanese Pataca; mro Mauritanian Ouguiya (19732017); mru Mauritanian Ouguiya;
    mur Mauritian Rupee; mvr Maldivian Rufiyaa; mwk Malawian Kwacha; mxn Mexican Peso; myr Malaysian Ringgit;
    mzn Mozambican Metical; nad Namibian Dollar; ngn Nigerian Naira; nio Nicaraguan Cordoba; nok Norwegian Krone;
    npr Nepalese Rupee; nzd New Zealand Dollar; omr Omani Rial; pab Panamanian Balboa; pen Peruvian Sol;
    pgk Papua New Guinean Kina; php Philippine Peso; pkr Pakistani Rupee; pln Polish Zloty; pyg Paraguayan Guarani;
    qar Qatari Riyal; ron Romanian Leu; rsd Serbian Dinar; rub Russian Ruble; rwf Rwandan Franc; sar Saudi Riyal;
    sbd Solomon Islands Dollar; scr Seychellois Rupee; sdg Sudanese Pound; sek Swedish Krona; sgd Singapore Dollar;
    shp St. Helena Pound; sle Sierra Leonean Leone; sll Sierra Leonean Leone (19642022); sos Somali Shilling;
    srd Surinamese Dollar; ssp South Sudanese Pound; std Sao Tome & Principe Dobra (19772017);
    stn Sao Tome & Principe Dobra; svc Salvadoran Colon; syp Syrian Pound; szl Swazi Lilangeni; thb Thai Baht;
    tjs Tajikistani Somoni; tmt Turkmenistani Manat; tnd Tunisian Dinar; top Tongan Paanga; try Turkish Lira;
    ttd Trinidad & Tobago Dollar; twd New Taiwan Dollar; tzs Tanzanian Shilling; uah Ukrainian Hryvnia;
    ugx Ugandan Shilling; usd US Dollar; uyu Uruguayan Peso; uzs Uzbekistani Som; vef Venezuelan Bolivar (20082018);
    ves Venezuelan Bolivar; vnd Vietnamese Dong; vuv Vanuatu Vatu; wst Samoan Tala; xaf Central African CFA Franc;
    xcd East Caribbean Dollar; xcg Caribbean guilder; xof West African CFA Franc; xpf CFP Franc; yer Yemeni Rial;
    zar South African Rand; zmw Zambian Kwacha; zwl Zimbabwean Dollar (20092024)
"""
_COUNTRIES = """
    AD eur Andorra; AE aed United Arab Emirates; AF afn Afghanistan; AG xcd Antigua & Barbuda; AI xcd Anguilla;
    AL all Albania; AM amd Armenia; AO aoa Angola; AQ usd Antarctica; AR ars Argentina; AS usd American Samoa;
    AT eur Austria; AU aud Australia; AW awg Aruba; AX eur Aland Islands; AZ azn Azerbaijan;
    BA bam Bosnia & Herzegovina; BB bbd Barbados; BD bdt Bangladesh; BE eur Belgium; BF xof Burkina Faso;
    BG bgn Bulgaria; BH bhd Bahrain; BI bif Burundi; BJ xof Benin; BL eur St. Barthelemy; BM bmd Bermuda;
    BN bnd Brunei; BO bob Bolivia; BQ usd Caribbean Netherlands; BR brl Brazil; BS bsd Bahamas; BT inr Bhutan;
    BV nok Bouvet Island; BW bwp Botswana; BY byn Belarus; BZ bzd Belize; CA cad Canada;
    CC aud Cocos (Keeling) Islands; CD cdf Congo - Kinshasa; CF xaf Central African Republic;
    CG xaf Congo - Brazzaville; CH chf Switzerland; CI xof Cote d'Ivoire; CK nzd Cook Islands; CL clp Chile;
    CM xaf Cameroon; CN cny China; CO cop Colombia; CR crc Costa Rica; CU cup Cuba; CV cve Cape Verde;
    CW xcg Curacao; CX aud Christmas Island; CY eur Cyprus; CZ czk Czechia; DE eur Germany; DJ djf Djibouti;
    DK dkk Denmark; DM xcd Dominica; DO dop Dominican Republic; DZ dzd Algeria; EC usd Ecuador; EE eur Estonia;
    EG egp Egypt; EH mad Western Sahara; ER ern Eritrea; ES eur Spain; ET etb Ethiopia; FI eur Finland; FJ fjd Fiji;
    FK fkp Falkland Islands; FM usd Micronesia; FO dkk Faroe Islands; FR eur France; GA xaf Gabon;
    GB gbp United Kingdom; GD xcd Grenada; GE gel Georgia; GF eur French Guiana; GG gbp Guernsey; GH ghs Ghana;
    GI gip Gibraltar; GL dkk Greenland; GM gmd Gambia; GN gnf Guinea; GP eur Guadeloupe; GQ xaf Equatorial Guinea;
    GR eur Greece; GS gbp South Georgia & South Sandwich Islands; GT gtq Guatemala; GU usd Guam;
    GW xof Guinea-Bissau; GY gyd Guyana; HK hkd Hong Kong SAR China; HM aud Heard & McDonald Islands;
    HN hnl Honduras; HR eur Croatia; HT htg Haiti; HU huf Hungary; ID idr Indonesia; IE eur Ireland; IL ils Israel;
    IM gbp Isle of Man; IN inr India; IO usd British Indian Ocean Territory; IQ iqd Iraq; IR irr Iran;
    IS isk Iceland; IT eur Italy; JE gbp Jersey; JM jmd Jamaica; JO jod Jordan; JP jpy Japan; KE kes Kenya;
    KG kgs Kyrgyzstan; KH khr Cambodia; KI aud Kiribati; KM kmf Comoros; KN xcd St. Kitts & Nevis;
    KP kpw North Korea; KR krw South Korea; KW kwd Kuwait; KY kyd Cayman Islands; KZ kzt Kazakhstan; LA lak Laos;
    LB lbp Lebanon; LC xcd St. Lucia; LI chf Liechtenstein; LK lkr Sri Lanka; LR lrd Liberia; LS zar Lesotho;
    LT eur Lithuania; LU eur Luxembourg; LV eur Latvia; LY lyd Libya; MA mad Morocco; MC eur Monaco; MD mdl Moldova;
    ME eur Montenegro; MF eur St. Martin; MG mga Madagascar; MH usd Marshall Islands; MK mkd North Macedonia;
    ML xof Mali; MM mmk Myanmar (Burma); MN mnt Mongolia; MO mop Macao SAR China; MP usd Northern Mariana Islands;
    MQ eur Martinique; MR mru Mauritania; MS xcd Montserrat; MT eur Malta; MU mur Mauritius; MV mvr Maldives;
    MW mwk Malawi; MX mxn Mexico; MY myr Malaysia; MZ mzn Mozambique; NA zar Namibia; NC xpf New Caledonia;
    NE xof Niger; NF aud Norfolk Island; NG ngn Nigeria; NI nio Nicaragua; NL eur Netherlands; NO nok Norway;
    NP npr Nepal; NR aud Nauru; NU nzd Niue; NZ nzd New Zealand; OM omr Oman; PA pab Panama; PE pen Peru;
    PF xpf French Polynesia; PG pgk Papua New Guinea; PH php Philippines; PK pkr Pakistan; PL pln Poland;
    PM eur St. Pierre & Miquelon; PN nzd Pitcairn Islands; PR usd Puerto Rico; PS ils Palestinian Territories;
    PT eur Portugal; PW usd Palau; PY pyg Paraguay; QA qar Qatar; RE eur Reunion; RO ron Romania; RS rsd Serbia;
    RU rub Russia; RW rwf Rwanda; SA sar Saudi Arabia; SB sbd Solomon Islands; SC scr Seychelles; SD sdg Sudan;
    SE sek Sweden; SG sgd Singapore; SH shp St. Helena; SI eur Slovenia; SJ nok Svalbard & Jan Mayen;
    SK eur Slovakia; SL sle Sierra Leone; SM eur San Marino; SN xof Senegal; SO sos Somalia; SR srd Suriname;
    SS ssp South Sudan; ST stn Sao Tome & Principe; SV usd El Salvador; SX xcg Sint Maarten; SY syp Syria;
    SZ szl Eswatini; TC usd Turks & Caicos Islands; TD xaf Chad; TF eur French Southern Territories; TG xof Togo;
    TH thb Thailand; TJ tjs Tajikistan; TK nzd Tokelau; TL usd Timor-Leste; TM tmt Turkmenistan; TN tnd Tunisia;
    TO top Tonga; TR try Turkiye; TT ttd Trinidad & Tobago; TV aud Tuvalu; TW twd Taiwan; TZ tzs Tanzania;
    UA uah Ukraine; UG ugx Uganda; UM usd U.S. Outlying Islands; US usd United States; UY uyu Uruguay;
    UZ uzs Uzbekistan; VA eur Vatican City; VC xcd St. Vincent & Grenadines; VE ves Venezuela;
    VG usd British Virgin Islands; VI usd U.S. Virgin Islands; VN vnd Vietnam; VU vuv Vanuatu;
    WF xpf Wallis & Futuna; WS wst Samoa; YE yer Yemen; YT eur Mayotte; ZA zar South Africa; ZM zmw Zambia;
    ZW usd Zimbabwe
"""
_ISO_0 = frozenset("bif clp djf gnf isk jpy kmf krw pyg rwf ugx vnd vuv xaf xof xpf".split())
_ISO_3 = frozenset("bhd iqd jod kwd lyd omr tnd".split())
_HUNDREDS = frozenset("huf isk twd ugx".split())  # paid out in multiples of 100 minor units
_NORTH = frozenset("BM CA GL PM US UM".split())
_LATIN = frozenset(
    "AG AI AR AW BB BL BO BQ BR BS BZ CL CO CR CU CW DM DO EC FK GD GF GP GT GY HN HT JM KN KY LC MF MQ MS MX NI PA PE"
    " PR PY SR SV SX TC TT UY VC VE VG VI".split())  # fmt: skip
_PACIFIC = frozenset(
    "AF AQ AS AU BD BN BT BV CC CK CN CX FJ FM GU HK HM ID IN IO JP KG KH KI KP KR KZ LA LK MH MM MN MO MP MV MY NC NF"
    " NP NR NU NZ PF PG PH PK PN PW SB SG TF TH TJ TK TL TM TO TV TW UZ VN VU WF WS".split())  # fmt: skip


def _entries(content: str) -> list[str]:
    return [entry.strip() for entry in content.replace("\n", " ").split(";") if entry.strip()]


NAMES = dict(entry.split(" ", 1) for entry in _entries(_CURRENCIES)) | {c: row[0] for c, row in CURRENCIES.items()}
_PLACES = {code: (name, _region, currency) for code, currency, name in (e.split(" ", 2) for e in _entries(_COUNTRIES))
           for _region in ["NA" if code in _NORTH else "LATAM" if code in _LATIN else "APAC" if code in _PACIFIC
                           else "EMEA"]}  # fmt: skip
PLACES = _PLACES | COUNTRIES
CURRENCY_CODES, COUNTRY_CODES = frozenset(NAMES), frozenset(PLACES)


def currencies() -> list[dict[str, object]]:
    """Every currency as a row: code, name, Stripe's and ISO's exponents, and what payouts are multiples of."""
    return [
        {"code": code, "name": name, "stripe_exponent": exponent(code),
         "iso_exponent": 0 if code in _ISO_0 else 3 if code in _ISO_3 else 2,
         "payout_multiple": 100 if code in _HUNDREDS else 10 if code in THREE_DECIMAL else 1}
        for code, name in NAMES.items()
    ]  # fmt: skip


def countries() -> list[dict[str, object]]:
    """Every country as a row: code, name, region, currency."""
    return [{"code": code, "name": name, "region": region, "currency": currency}
            for code, (name, region, currency) in PLACES.items()]
