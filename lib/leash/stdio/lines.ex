defmodule Leash.Stdio.Lines do
  # Cuts the output of a program into lines, however the bytes arrive.
  #
  # The bytes stay as they are, so a line need not be UTF-8.
  @moduledoc false

  alias Leash.Text

  # Long enough for a document of JSON in one line, and no burden for the memory.
  @max 1_048_576
  # The longest character of UTF-8, so that a cut can spare characters.
  @shortest 4

  @keys [
    max: [
      type: {:in, @shortest..0x7FFFFFFF},
      type_spec: quote(do: pos_integer()),
      default: @max,
      doc: "The most bytes of a line."
    ]
  ]

  @option [
    type: {:or, [:boolean, keyword_list: @keys]},
    type_doc: "true, false or [max: bytes] (#{@shortest} bytes or more)",
    default: false
  ]

  defstruct [:max, returns?: false, parts: [], size: 0]

  @typedoc """
  The state of the cutter.

    * `max` - the most bytes of an element
    * `returns?` - whether a carriage return before the line feed stays
    * `parts`, `size` - the unfinished line
  """
  @type t :: %__MODULE__{
          max: pos_integer() | :infinity,
          returns?: boolean(),
          parts: iodata(),
          size: non_neg_integer()
        }

  @doc "The option `lines:`, described by what gets the lines."
  @spec option(String.t()) :: keyword()
  def option(doc) do
    @option ++
      [
        doc:
          doc <>
            " A line ends with a line feed or with carriage return and line feed, which are " <>
            "removed. A last line without an end counts. A line of more than `:max` bytes " <>
            "comes in pieces of at most that size, which do not cut a character of UTF-8. " <>
            "Bytes that are no UTF-8 stay as they are."
      ]
  end

  @doc """
  Returns the cutter of an option, or nil if it asks for none.

  A number is that of `System.cmd/3`: lines of any length end with a line feed alone.
  """
  @spec new(boolean() | keyword() | pos_integer() | nil) :: t() | nil
  def new(none) when none in [nil, false], do: nil
  def new(true), do: %__MODULE__{max: @max}
  def new(number) when is_integer(number), do: %__MODULE__{max: :infinity, returns?: true}
  def new(max: max), do: %__MODULE__{max: max}

  @doc "Returns the segments that a separator ends, and the rest."
  @spec split(binary(), binary() | [binary()]) :: {[binary()], binary()}
  def split(data, separators) do
    {ended, [rest]} = data |> :binary.split(separators, [:global]) |> Enum.split(-1)
    {ended, rest}
  end

  @doc "Returns the lines that these bytes complete. Searches no byte twice."
  @spec push(t(), binary()) :: {[binary()], t()}
  def push(lines, data) do
    case split(data, "\n") do
      {[], rest} ->
        extend(lines, rest)

      {[first | whole], rest} ->
        begun = IO.iodata_to_binary([lines.parts, first])
        {pieces, lines} = extend(%{lines | parts: [], size: 0}, rest)
        {Enum.flat_map([begun | whole], &line(&1, lines)) ++ pieces, lines}
    end
  end

  @doc "Returns the last line if it has no end. Nothing may be pushed after it."
  @spec finish(t()) :: [binary()]
  def finish(%{size: 0}), do: []
  def finish(lines), do: lines.parts |> IO.iodata_to_binary() |> pieces(lines.max)

  defp line(line, %{returns?: true, max: max}), do: pieces(line, max)

  defp line(line, %{max: max}) do
    size = byte_size(line) - 1

    if size >= 0 and :binary.last(line) == ?\r,
      do: line |> binary_part(0, size) |> pieces(max),
      else: pieces(line, max)
  end

  # A number is less than any atom, so it is never more than :infinity.
  defp pieces(line, max) when byte_size(line) <= max, do: [line]

  defp pieces(line, max) do
    {piece, rest} = Text.split(line, max)
    [piece | pieces(rest, max)]
  end

  defp extend(lines, ""), do: {[], lines}

  defp extend(%{max: max} = lines, data) do
    lines = %{lines | parts: [lines.parts, data], size: lines.size + byte_size(data)}

    # One byte more, because it may be the carriage return of the line's end.
    if max == :infinity or lines.size <= max + 1,
      do: {[], lines},
      else: lines.parts |> IO.iodata_to_binary() |> cut(lines, [])
  end

  defp cut(line, %{max: max} = lines, pieces) when byte_size(line) <= max + 1,
    do: {Enum.reverse(pieces), %{lines | parts: line, size: byte_size(line)}}

  defp cut(line, lines, pieces) do
    {piece, rest} = Text.split(line, lines.max)
    cut(rest, lines, [piece | pieces])
  end
end
