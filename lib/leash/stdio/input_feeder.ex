defmodule Leash.Stdio.InputFeeder do
  # Writes the input of a command and closes its stdin at the end.
  #
  # A process of its own: a command that does not read must not keep its caller from reading the
  # command's output.
  @moduledoc false

  alias Leash.{Callback, Native}
  alias Leash.Stdio.Terminal

  # The capacity of a pipe.
  @gather_bytes 65_536

  @typedoc "All of the input, or an enumerable of its parts."
  @type input :: iodata() | Enumerable.t()

  @doc """
  Starts a feeder that ends with the caller, and makes it the owner of `fd`. Returns its pid and a
  monitor. If `terminal?`, then the input is typed, and its end, too.

  The feeder begins at `feed/1`. It exits `:normal` when everything was written or the program
  reads no more. It exits `{:shutdown, {:input, kind, reason, stacktrace}}` when the enumerable
  raised, threw or exited.
  """
  @spec start(Native.fd(), input(), boolean()) :: {pid(), reference()}
  def start(fd, input, terminal?) do
    caller = self()

    {pid, monitor} =
      spawn_monitor(
        Callback.inherit(fn ->
          # Not by a link: the caller may not trap exits, and a source may end the feeder.
          feeder = self()
          spawn(fn -> end_with(caller, feeder) end)

          receive do
            :feed -> feed(fd, input, terminal?)
          end
        end)
      )

    :ok = Native.fd_give(fd, pid)
    {pid, monitor}
  end

  # A source that waits for something reads no messages, so another process ends the feeder.
  defp end_with(caller, feeder) do
    Process.monitor(caller)
    Process.monitor(feeder)

    receive do
      {:DOWN, _monitor, :process, _caller_or_feeder, _reason} -> Process.exit(feeder, :kill)
    end
  end

  @doc "Lets a feeder begin. Call it once."
  @spec feed(pid()) :: :ok
  def feed(feeder) do
    send(feeder, :feed)
    :ok
  end

  defp feed(fd, input, terminal?) do
    cond do
      terminal? -> type(fd, input)
      is_binary(input) -> write(fd, input)
      true -> feed_parts(fd, input)
    end
  catch
    kind, reason -> exit({:shutdown, {:input, kind, reason, __STACKTRACE__}})
  after
    Native.fd_close(fd)
  end

  # A list exists already, so its parts can be gathered. It may be iodata or an enumerable of
  # iodata. A list that is both means the same.
  defp feed_parts(fd, list) when is_list(list), do: feed_list(fd, list, [], 0)

  # A source that computes parts may wait for the effect of the last part.
  defp feed_parts(fd, enumerable), do: Enum.reduce_while(enumerable, :ok, &feed_part(fd, &1, &2))

  defp feed_part(fd, part, :ok) do
    case write(fd, IO.iodata_to_binary(part)) do
      :ok -> {:cont, :ok}
      :closed -> {:halt, :closed}
    end
  end

  defp feed_list(fd, list, parts, size) when size >= @gather_bytes do
    with :ok <- write(fd, joined(parts)), do: feed_list(fd, list, [], 0)
  end

  defp feed_list(fd, [], parts, _size), do: write(fd, joined(parts))

  defp feed_list(fd, [byte | list], parts, size) when byte in 0..255,
    do: feed_list(fd, list, [byte | parts], size + 1)

  defp feed_list(fd, [part | list], parts, size),
    do: feed_list(fd, list, [part | parts], size + IO.iodata_length(part))

  # The tail of iodata may be a binary.
  defp feed_list(fd, tail, parts, size), do: feed_list(fd, [tail], parts, size)

  defp joined([part]) when is_binary(part), do: part
  defp joined(parts), do: parts |> Enum.reverse() |> IO.iodata_to_binary()

  # Nothing is gathered: a line is read as soon as it is typed.
  defp type(fd, input) do
    parts = if is_binary(input) or is_list(input), do: [input], else: input

    case Enum.reduce_while(parts, nil, &type_part(fd, &1, &2)) do
      :closed -> :closed
      last -> write(fd, Terminal.eof(fd, last))
    end
  end

  defp type_part(fd, part, last) do
    data = IO.iodata_to_binary(part)

    case write(fd, data) do
      :ok -> {:cont, Terminal.last(last, data)}
      :closed -> {:halt, :closed}
    end
  end

  defp write(_fd, ""), do: :ok

  defp write(fd, data) do
    case Native.fd_write(fd, data) do
      {:ok, written} -> write(fd, rest(data, written))
      {:again, written} -> await_room(fd, rest(data, written))
      # EPIPE: the program has read as much as it wanted, which is no failure here.
      {:error, _reason} -> :closed
    end
  end

  defp await_room(fd, rest) do
    receive do
      {:leash_fd, ^fd, :writable} -> write(fd, rest)
    end
  end

  defp rest(data, written), do: binary_part(data, written, byte_size(data) - written)
end
