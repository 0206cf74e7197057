defmodule Leash.Text do
  # Converts the bytes of programs to text for a terminal, a log backend and a reader.
  @moduledoc false

  @replacement 0xFFFD
  # "Control Pictures" of Unicode: one for each control character of ASCII, in its order.
  @pictures 0x2400
  @picture_of_delete 0x2421

  @doc """
  Returns the text with U+FFFD for each byte that is no UTF-8, and a picture for each control
  character.

  The pictures are those of U+2400 (`␛` for ESC). The controls of U+0080 to U+009F have none and
  become U+FFFD. A tab stays.
  """
  @spec printable(binary()) :: String.t()
  def printable(text), do: if(plain?(text), do: text, else: replace(text, ""))

  @doc "Converts like `printable/1`, but keeps line feeds."
  @spec printable_lines(binary()) :: String.t()
  def printable_lines(text) do
    if plain?(text),
      do: text,
      else: text |> :binary.split("\n", [:global]) |> Enum.map_join("\n", &printable/1)
  end

  @doc """
  Splits off at most so many bytes (4 or more), and no character in two.

  If the bytes are not UTF-8, it takes the whole number of bytes.
  """
  @spec split(binary(), pos_integer()) :: {binary(), binary()}
  def split(text, most) when byte_size(text) <= most, do: {text, ""}

  def split(text, most) do
    size = boundary(text, most, 0)
    {binary_part(text, 0, size), binary_part(text, size, byte_size(text) - size)}
  end

  # A character has at most three bytes behind its first.
  defp boundary(_text, most, 4), do: most

  defp boundary(text, most, back) do
    if :binary.at(text, most - back) in 0x80..0xBF,
      do: boundary(text, most, back + 1),
      else: most - back
  end

  @doc "Returns the text without a character at its end that lacks its last bytes."
  @spec complete(binary()) :: binary()
  def complete(text), do: complete(text, byte_size(text), 1)

  defp complete(text, size, back) when back > 3 or back > size, do: text

  defp complete(text, size, back) do
    case :binary.at(text, size - back) do
      byte when byte in 0x80..0xBF -> complete(text, size, back + 1)
      byte when byte in 0xF0..0xF4 and back < 4 -> binary_part(text, 0, size - back)
      byte when byte in 0xE0..0xEF and back < 3 -> binary_part(text, 0, size - back)
      byte when byte in 0xC2..0xDF and back < 2 -> binary_part(text, 0, size - back)
      _whole -> text
    end
  end

  @doc "Returns whether it is ASCII without control characters but tabs, as nearly all text is."
  @spec plain?(binary()) :: boolean()
  def plain?(<<byte, rest::binary>>) when byte in 32..126 or byte == ?\t, do: plain?(rest)
  def plain?(rest), do: rest == ""

  defp replace(<<character::utf8, rest::binary>>, done),
    do: replace(rest, <<done::binary, shown(character)::utf8>>)

  defp replace(<<_byte, rest::binary>>, done),
    do: replace(rest, <<done::binary, @replacement::utf8>>)

  defp replace("", done), do: done

  defp shown(?\t), do: ?\t
  defp shown(character) when character < 32, do: @pictures + character
  defp shown(127), do: @picture_of_delete
  defp shown(character) when character in 0x80..0x9F, do: @replacement
  defp shown(character), do: character
end
