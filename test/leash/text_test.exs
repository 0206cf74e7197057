defmodule Leash.TextTest do
  use ExUnit.Case, async: true

  alias Leash.Text

  test "text of any script stays as it is" do
    for text <- ["", "plain", "tab\there", "grün, ✓ Ready, 日本, 🙂"],
        do: assert(Text.printable(text) == text)
  end

  test "bytes that are no UTF-8 are replaced one by one, and nothing beside them" do
    assert Text.printable("gr\xFCn \xE2\x9C") == "gr\uFFFDn \uFFFD\uFFFD"
    assert Text.printable(<<0xED, 0xA0, 0x80>>) == "\uFFFD\uFFFD\uFFFD"
    bytes = for byte <- 0..255, into: "", do: <<byte>>
    assert String.valid?(Text.printable(bytes))
    refute Text.printable(bytes) =~ ~r/(?!\t)[[:cntrl:]]/u
  end

  test "control characters are shown and control nothing" do
    assert Text.printable("a\e[2J\r\n\x00\x7F\u009Bb") == "a␛[2J␍␊␀␡\uFFFDb"
    assert Text.printable_lines("a\e\nb\r\n") == "a␛\nb␍\n"
  end

  test "a text is split between characters" do
    text = "aé✓🙂z"

    for most <- 4..20 do
      {taken, rest} = Text.split(text, most)
      assert taken <> rest == text and byte_size(taken) <= most
      assert taken != "" and String.valid?(taken) and String.valid?(rest)
    end

    assert Text.split(String.duplicate("\x80", 9), 5) ==
             {String.duplicate("\x80", 5), String.duplicate("\x80", 4)}
  end

  test "only a character whose rest is missing is held back" do
    for character <- ["é", "✓", "🙂"], size <- 1..(byte_size(character) - 1) do
      assert Text.complete("a" <> binary_part(character, 0, size)) == "a"
      assert Text.complete(binary_part(character, 0, size)) == ""
    end

    for whole <- ["", "a", "é", "✓", "🙂", "a\x80\x80\x80\x80", "\xFF"],
        do: assert(Text.complete(whole) == whole)
  end
end
