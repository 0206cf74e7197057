defmodule Leash.Stdio.FlowControl do
  # Holds back the reader of a pipe while the process that gets its output does not keep up.
  #
  # The length of the receiver's mailbox decides. That needs nothing from the receiver: there is
  # no acknowledgement to forget, and messages of others count, too.
  #
  # A receiver that leaves many other messages unread would never get anything again. So a mailbox
  # that stays as full as it is gets one message more now and then. If that one was taken, the
  # remaining messages no longer count.
  @moduledoc false

  # The length is read once in so many messages. To read it of a running process costs that
  # process an answer, and the reader a wait. So a mailbox may get this many messages of each
  # stream beyond the window, if others fill it meanwhile.
  @burst 16

  # The time between two looks at a full mailbox, in milliseconds. If a receiver works off a few
  # messages in a millisecond, it must not find its mailbox empty. A sleeping one must cost
  # nothing.
  @shortest_pause 1
  @longest_pause 10

  # So many looks, the longest pause apart, find a mailbox as full as before. Then it gets one
  # message more.
  @looks 10

  defstruct [
    :pid,
    :size,
    limited?: false,
    credit: 0,
    pause: @shortest_pause,
    # Messages that stay in the mailbox and do not count.
    base: 0,
    # The length at the last look at a full mailbox, and the number of looks that found it so.
    seen: {0, 0},
    # The length before a message that was sent as a probe.
    probe: nil
  ]

  @type t :: %__MODULE__{
          pid: pid(),
          size: pos_integer(),
          limited?: boolean(),
          credit: non_neg_integer(),
          pause: pos_integer(),
          base: non_neg_integer(),
          seen: {non_neg_integer(), non_neg_integer()},
          probe: non_neg_integer() | nil
        }

  @doc """
  Returns a window of `size` messages, without effect until `limit/1`.

  Returns `nil` for a handler without a mailbox, and for a pid of another node, because only that
  node knows the length.
  """
  @spec new(term(), pos_integer()) :: t() | nil
  def new(pid, size) when is_pid(pid) and node(pid) == node(),
    do: %__MODULE__{pid: pid, size: size}

  def new(_handler, _size), do: nil

  @doc "Makes the mailbox count from now on."
  @spec limit(t() | nil) :: t() | nil
  def limit(nil), do: nil
  def limit(%__MODULE__{} = window), do: %{window | limited?: true}

  @doc """
  Lets pass what the pipe of an ended tree still holds, regardless of the mailbox.

  These are a few messages, which must not delay the end.
  """
  @spec finish(t() | nil) :: t() | nil
  def finish(nil), do: nil
  def finish(%__MODULE__{} = window), do: %{window | credit: @burst}

  @doc "Returns whether a message may be sent now, or after how many milliseconds to ask again."
  @spec check(t() | nil) :: {:open, t() | nil} | {:full, pos_integer(), t()}
  def check(nil), do: {:open, nil}
  def check(%__MODULE__{limited?: false} = window), do: {:open, window}
  def check(%__MODULE__{credit: credit} = window) when credit > 0, do: {:open, window}

  def check(%__MODULE__{pid: pid, size: size} = window) do
    case Process.info(pid, :message_queue_len) do
      {_key, length} ->
        window = settle(window, length)
        room = size - (length - window.base) + 1
        if room > 0, do: open(window, room), else: full(window, length)

      # The receiver is gone, so it cannot be overrun.
      nil ->
        {:open, %{window | credit: @burst}}
    end
  end

  # The probe was taken, so the remaining messages were there before it.
  defp settle(%{probe: probe} = window, length) when probe != nil and length <= probe,
    do: %{window | base: length, probe: nil}

  defp settle(%{base: base} = window, length), do: %{window | base: min(base, length)}

  defp open(window, room) do
    credit = min(@burst, room)
    {:open, %{window | credit: credit, pause: @shortest_pause, seen: {0, 0}}}
  end

  defp full(%{seen: {length, @looks}, probe: nil} = window, length),
    do: {:open, %{window | credit: 1, probe: length, seen: {length, 0}}}

  defp full(%{pause: pause, seen: {before, looks}} = window, length) do
    looks = if length == before and pause == @longest_pause, do: min(looks + 1, @looks), else: 0
    pause = min(2 * pause, @longest_pause)
    {:full, window.pause, %{window | pause: pause, seen: {length, looks}}}
  end

  @doc "Counts a message that was sent."
  @spec sent(t() | nil) :: t() | nil
  def sent(%__MODULE__{credit: credit} = window) when credit > 0,
    do: %{window | credit: credit - 1}

  def sent(window), do: window
end
