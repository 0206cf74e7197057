defmodule Leash.Command.Feeder do
  # Writes the input of a command and closes its stdin at the end.
  #
  # A process of its own: a command that does not read must not keep its caller from reading what it writes.
  @moduledoc false

  alias Leash.Native

  @typedoc "All of the input, or an enumerable of its parts."
  @type input :: iodata() | Enumerable.t()

  @doc """
  Starts a feeder linked to the caller and makes it the owner of `fd`; it begins when `feed/1` says so.

  It exits `:normal` when everything was written or nobody reads any more, and
  `{:shutdown, {:input, kind, reason, stacktrace}}` when the enumerable raised, threw or exited.
  """
  @spec start_link(Native.fd(), input()) :: pid()
  def start_link(fd, input) do
    pid =
      spawn_link(fn ->
        receive do
          :feed -> feed(fd, input)
        end
      end)

    :ok = Native.fd_give(fd, pid)
    pid
  end

  @doc "Lets a feeder begin; to be called once."
  @spec feed(pid()) :: :ok
  def feed(feeder) do
    send(feeder, :feed)
    :ok
  end

  defp feed(fd, input) do
    case iodata(input) do
      {:ok, data} -> write(fd, data)
      :error -> Enum.reduce_while(input, :ok, &write_part(fd, &1, &2))
    end
  catch
    kind, reason -> exit({:shutdown, {:input, kind, reason, __STACKTRACE__}})
  after
    Native.fd_close(fd)
  end

  # A list may be either, and a list of binaries is both with the same meaning.
  defp iodata(input) when is_binary(input), do: {:ok, input}

  defp iodata(input) when is_list(input) do
    {:ok, IO.iodata_to_binary(input)}
  rescue
    ArgumentError -> :error
  end

  defp iodata(_enumerable), do: :error

  defp write_part(fd, part, :ok) do
    case write(fd, IO.iodata_to_binary(part)) do
      :ok -> {:cont, :ok}
      :closed -> {:halt, :closed}
    end
  end

  defp write(_fd, ""), do: :ok

  defp write(fd, data) do
    case Native.fd_write(fd, data) do
      {:ok, written} -> write(fd, rest(data, written))
      {:again, written} -> await_room(fd, rest(data, written))
      # EPIPE: it has read as much as it wanted, which is no failure of ours.
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
