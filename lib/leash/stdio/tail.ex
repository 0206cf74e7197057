defmodule Leash.Stdio.Tail do
  # The last lines of a worker's stderr, for the report of its end.
  @moduledoc false

  alias Leash.Stdio.LogLines

  @most_bytes 4_096
  @most_lines 20

  @typedoc """
  The last bytes, at first an empty binary.

  Twice as many as are shown, so that not each part makes a copy.
  """
  @type t :: binary()

  @doc "Adds what was read. The result holds at most twice the bytes that are shown."
  @spec push(t(), binary()) :: t()
  def push(_tail, data) when byte_size(data) >= 2 * @most_bytes, do: last(data, 2 * @most_bytes)

  def push(tail, data) when byte_size(tail) + byte_size(data) <= 2 * @most_bytes,
    do: tail <> data

  def push(tail, data), do: last(tail, @most_bytes) <> last(data, @most_bytes)

  # A copy, because a part of a binary keeps all of it in memory.
  defp last(data, most) when byte_size(data) <= most, do: data
  defp last(data, most), do: data |> binary_part(byte_size(data), -most) |> :binary.copy()

  @doc "Returns the lines as the log shows them."
  @spec lines(t()) :: [String.t()]
  def lines(tail) do
    {ended, lines} = LogLines.push(LogLines.new(0), whole_lines(tail), 0)
    {rest, _lines} = LogLines.finish(lines, 0)
    Enum.take(ended ++ rest, -@most_lines)
  end

  # The first line may lack its beginning.
  defp whole_lines(tail) when byte_size(tail) <= @most_bytes, do: tail

  defp whole_lines(tail) do
    shown = last(tail, @most_bytes)

    case :binary.split(shown, "\n") do
      [_begun, rest] when rest != "" -> rest
      _one_line -> shown
    end
  end
end
